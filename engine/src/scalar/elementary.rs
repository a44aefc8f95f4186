//! Exponential, logarithm, tanh and erf of f32 as branch-free code that the compiler vectorises. f64 uses the exact functions.
use crate::dtype::Real;

/// Elementary functions that vectorise in loops.
pub trait Elementary: Real {
    /// `e^x`, within 2 ulp.
    fn fast_exp(self) -> Self;
    /// `e^x - 1` for x up to 88, within 2 ulp; above, the value at 88.
    fn fast_exp_m1(self) -> Self;
    /// `log(1 + x)` for x from 0 to 1, within 2 ulp.
    fn fast_ln_1p(self) -> Self;
    /// The hyperbolic tangent, within 3 ulp.
    fn fast_tanh(self) -> Self;
    /// The error function, within 3 ulp.
    fn fast_erf(self) -> Self;
}

impl Elementary for f64 {
    #[inline(always)]
    fn fast_exp(self) -> f64 {
        self.exp()
    }
    #[inline(always)]
    fn fast_exp_m1(self) -> f64 {
        self.exp_m1()
    }
    #[inline(always)]
    fn fast_ln_1p(self) -> f64 {
        self.ln_1p()
    }
    #[inline(always)]
    fn fast_tanh(self) -> f64 {
        self.tanh()
    }
    #[inline(always)]
    fn fast_erf(self) -> f64 {
        libm::erf(self)
    }
}

impl Elementary for f32 {
    /// Cephes' `expf`: `e^x = 2^n e^r` with `|r| <= ln 2 / 2` and a polynomial of degree 7 in r.
    #[inline(always)]
    fn fast_exp(self) -> f32 {
        // Outside these bounds the result is 0 or infinite. NaN fails both comparisons and propagates.
        let x = if self > 89.0 { 89.0 } else { self };
        let x = if x < -104.0 { -104.0 } else { x };
        let (q, n) = reduced_exp_m1(x);
        let y = q + 1.0;
        // 2^n as two factors, so that neither overflows unless the product does.
        let half = n >> 1;
        y * power_of_two(half) * power_of_two(n - half)
    }

    /// `2^n (e^r - 1) + (2^n - 1)`: near zero n is 0, and the polynomial has no constant term to cancel.
    #[inline(always)]
    fn fast_exp_m1(self) -> f32 {
        // Below -30 the result rounds to -1; above 88, 2^n would overflow before the product does.
        let x = if self > 88.0 { 88.0 } else { self };
        let x = if x < -30.0 { -30.0 } else { x };
        let (q, n) = reduced_exp_m1(x);
        let power = power_of_two(n);
        q * power + (power - 1.0)
    }

    /// Cephes' `logf` of `u = 1 + x`, plus `(x - (u - 1)) / u` for the rounding error of u.
    #[inline(always)]
    fn fast_ln_1p(self) -> f32 {
        let u = 1.0 + self;
        let lost = (self - (u - 1.0)) / u;
        let (m, k) = if u > std::f32::consts::SQRT_2 { (0.5 * u, 1.0) } else { (u, 0.0) };
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
        let tail = r * z * p - 2.121_944_4e-4 * k - 0.5 * z;
        (r + (tail + lost)) + 0.693_359_4 * k
    }

    /// Cephes' `tanhf`: an odd polynomial near zero, `1 - 2 / (e^2x + 1)` elsewhere.
    #[inline(always)]
    fn fast_tanh(self) -> f32 {
        let a = self.abs();
        let far = 1.0 - 2.0 / ((2.0 * a).fast_exp() + 1.0);
        let z = self * self;
        let p = -5.704_988_7e-3;
        let p = p * z + 2.063_909e-2;
        let p = p * z - 5.373_971_6e-2;
        let p = p * z + 1.333_144_2e-1;
        let p = p * z - 3.333_328e-1;
        let near = self + self * z * p;
        let far = if self < 0.0 { -far } else { far };
        if a < 0.625 { near } else { far }
    }

    /// Rational approximation in x², as in Eigen. Outside the bounds the result rounds to ±1.
    #[inline(always)]
    fn fast_erf(self) -> f32 {
        const BOUND: f32 = 3.832_507;
        let x = if self > BOUND { BOUND } else { self };
        let x = if x < -BOUND { -BOUND } else { x };
        let z = x * x;
        let p = 2.123_732_2e-6;
        let p = p * z + 2.861_979_6e-4;
        let p = p * z + 3.658_048_3e-3;
        let p = p * z + 5.243_302e-2;
        let p = p * z + 1.874_160_8e-1;
        let p = p * z + std::f32::consts::FRAC_2_SQRT_PI;
        let q = 3.891_857_3e-5;
        let q = q * z + 1.143_296e-3;
        let q = q * z + 1.475_208_8e-2;
        let q = q * z + 1.129_456_8e-1;
        let q = q * z + 4.994_258e-1;
        x * p / (q * z + 1.0)
    }
}

/// `(e^r - 1, n)` with `x = n ln 2 + r` and `|r| <= ln 2 / 2`, for x between -104 and 89.
#[inline(always)]
fn reduced_exp_m1(x: f32) -> (f32, i32) {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the significand.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    (p * r * r + r, (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32))
}

/// `2^k` for k from -126 to 127.
#[inline(always)]
fn power_of_two(k: i32) -> f32 {
    f32::from_bits((k.wrapping_add(127) << 23) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(from: f32, to: f32, fast: fn(f32) -> f32, exact: fn(f64) -> f64) -> f64 {
        (0..200_000)
            .map(|i| from + (to - from) * i as f32 / 200_000.0)
            .map(|x| {
                let (got, exact) = (f64::from(fast(x)), exact(f64::from(x)));
                (got - exact).abs() / exact.abs().max(1e-37)
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn fast_functions_stay_within_error_bounds() {
        let ulp = f64::from(f32::EPSILON) / 2.0;
        assert!(worst(-87.0, 88.7, Elementary::fast_exp, f64::exp) <= 4.0 * ulp);
        assert!(worst(-20.0, 88.0, Elementary::fast_exp_m1, f64::exp_m1) <= 4.0 * ulp);
        assert!(worst(-0.01, 0.01, Elementary::fast_exp_m1, f64::exp_m1) <= 4.0 * ulp);
        assert!(worst(0.0, 1.0, Elementary::fast_ln_1p, f64::ln_1p) <= 4.0 * ulp);
        assert!(worst(0.0, 1e-5, Elementary::fast_ln_1p, f64::ln_1p) <= 4.0 * ulp);
        assert!(worst(-10.0, 10.0, Elementary::fast_tanh, f64::tanh) <= 6.0 * ulp);
        assert!(worst(-6.0, 6.0, Elementary::fast_erf, libm::erf) <= 6.0 * ulp);
    }

    #[test]
    fn extreme_arguments_match_exact_functions() {
        assert_eq!(f32::INFINITY.fast_exp(), f32::INFINITY);
        assert_eq!(100f32.fast_exp(), f32::INFINITY);
        assert_eq!(f32::NEG_INFINITY.fast_exp(), 0.0);
        assert!(
            f32::NAN.fast_exp().is_nan() && f32::NAN.fast_tanh().is_nan() && f32::NAN.fast_erf().is_nan()
        );
        assert!(f32::NAN.fast_exp_m1().is_nan() && f32::NAN.fast_ln_1p().is_nan());
        assert_eq!(
            (f32::NEG_INFINITY.fast_exp_m1(), 0f32.fast_exp_m1(), 0f32.fast_ln_1p()),
            (-1.0, 0.0, 0.0)
        );
        assert_eq!((0f32.fast_exp(), 0f32.fast_tanh(), 0f32.fast_erf()), (1.0, 0.0, 0.0));
        assert_eq!((f32::INFINITY.fast_tanh(), f32::NEG_INFINITY.fast_tanh()), (1.0, -1.0));
    }
}
