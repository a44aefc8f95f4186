//! Logarithm and power of f32 as branch-free code that the compiler vectorises.

/// Natural logarithm, within 2 ulp: `x = 2^k m` with m near 1, and Cephes' polynomial in `m - 1`.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    let (m, k) = split(x);
    let r = m - 1.0;
    let z = r * r;
    let p = 7.037_683_6e-2;
    let p = p * r - 1.151_461e-1;
    let p = p * r + 1.167_699_9e-1;
    let p = p * r - 1.242_014_1e-1;
    let p = p * r + 1.424_932_3e-1;
    let p = p * r - 1.666_805_8e-1;
    let p = p * r + 2.000_071_5e-1;
    let p = p * r - 2.499_999_4e-1;
    let p = p * r + 3.333_333e-1;
    let y = r + (r * z * p - 2.121_944_4e-4 * k - 0.5 * z) + 0.693_359_4 * k;
    let y = if x < f32::INFINITY { y } else { x };
    let y = if x > 0.0 { y } else { f32::NAN };
    if x == 0.0 { f32::NEG_INFINITY } else { y }
}

/// `a` to the power `b`, within 1 ulp: `e^(b ln a)` in f64. Special values as in C's `pow`, except that negative zero counts as zero.
#[inline(always)]
pub fn powf(a: f32, b: f32) -> f32 {
    let size = a.abs();
    let (m, k) = split(size);
    // ln m = 2 artanh((m - 1) / (m + 1)), where the quotient is below 0.172.
    let q = (f64::from(m) - 1.0) / (f64::from(m) + 1.0);
    let s = q * q;
    let p = 1.0 / 13.0;
    let p = p * s + 1.0 / 11.0;
    let p = p * s + 1.0 / 9.0;
    let p = p * s + 1.0 / 7.0;
    let p = p * s + 1.0 / 5.0;
    let p = p * s + 1.0 / 3.0;
    let p = p * s + 1.0;
    let log = 2.0 * q * p + f64::from(k) * std::f64::consts::LN_2;
    let log = if size == 0.0 { f64::NEG_INFINITY } else { log };
    let log = if size < f32::INFINITY { log } else { f64::from(size) };
    let y = exp(f64::from(b) * log) as f32;
    // 1 instead of NaN for an infinite exponent.
    let y = if size == 1.0 { 1.0 } else { y };
    let whole = b == b.trunc();
    let odd = whole && 0.5 * b != (0.5 * b).trunc();
    let signed = if odd { -y } else { y };
    let negative = if whole || size == f32::INFINITY { signed } else { f32::NAN };
    let y = if a < 0.0 { negative } else { y };
    if b == 0.0 || a == 1.0 { 1.0 } else { y }
}

/// `x = 2^k m` with m between 0.707 and 1.414, for finite positive x.
#[inline(always)]
fn split(x: f32) -> (f32, f32) {
    // Subnormal numbers are scaled to normal ones.
    let tiny = x < f32::MIN_POSITIVE;
    let bits = (if tiny { x * 8_388_608.0 } else { x }).to_bits() as i32;
    let m = f32::from_bits((bits & 0x007f_ffff | 0x3f80_0000) as u32);
    let k = ((bits >> 23) - 127) as f32 - if tiny { 23.0 } else { 0.0 };
    let upper = m > std::f32::consts::SQRT_2;
    (if upper { 0.5 * m } else { m }, if upper { k + 1.0 } else { k })
}

/// `e^t` with a relative error of about 1e-11. `t` is clamped to ±200, far beyond the range of f32.
#[inline(always)]
fn exp(t: f64) -> f64 {
    let t = if t > 200.0 { 200.0 } else { t };
    let t = if t < -200.0 { -200.0 } else { t };
    // Adding 1.5 * 2^52 leaves the nearest integer in the low bits of the significand.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let shifted = t * std::f64::consts::LOG2_E + ROUND;
    let r = t - (shifted - ROUND) * std::f64::consts::LN_2;
    let p = 1.0 / 362_880.0;
    let p = p * r + 1.0 / 40_320.0;
    let p = p * r + 1.0 / 5_040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let n = (shifted.to_bits() as i64).wrapping_sub(ROUND.to_bits() as i64);
    p * f64::from_bits((n.wrapping_add(1023) << 52) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(got: f32, expected: f64, what: &str) {
        let rounded = expected as f32;
        let close =
            (f64::from(got) - expected).abs() <= 2.0 * f64::from(f32::EPSILON) * expected.abs() + 1e-44;
        assert!(
            got == rounded || (got.is_nan() && rounded.is_nan()) || close,
            "{what}: {got} for {expected}"
        );
    }

    const SPECIAL: [f32; 14] = [
        0.0,
        1.0,
        -1.0,
        0.5,
        -2.0,
        3.0,
        -3.0,
        2.5,
        1e-40,
        1e-30,
        3e38,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];

    #[test]
    fn powf_matches_exact_function() {
        for i in 0..20_000 {
            let a = (i as f32 - 2_000.0) * 7e-4 + 1e-5;
            let b = ((i * 7919) % 4001) as f32 / 200.0 - 10.0;
            same(powf(a, b), f64::from(a).powf(f64::from(b)), &format!("{a}^{b}"));
        }
        for a in SPECIAL {
            for b in SPECIAL {
                same(powf(a, b), f64::from(a).powf(f64::from(b)), &format!("{a}^{b}"));
            }
        }
    }

    #[test]
    fn ln_matches_exact_function() {
        for i in 1..20_000 {
            let x = (i as f32 * 1.3e-3).powi(3);
            let (got, expected) = (f64::from(ln(x)), f64::from(x).ln());
            assert!((got - expected).abs() <= 2.4e-7 * expected.abs().max(0.5), "{x}: {got} for {expected}");
        }
        for x in SPECIAL {
            same(ln(x), f64::from(x).ln(), &format!("ln {x}"));
        }
    }
}
