//! Exponential, tanh and erf of f32 as straight-line code that the compiler vectorises; f64 takes the exact functions.
use crate::dtype::Real;

/// Elementary functions in a form that loops can vectorise.
pub trait Elementary: Real {
    /// `e^x`, within 2 ulp.
    fn fast_exp(self) -> Self;
    /// The hyperbolic tangent, within 3 ulp.
    fn fast_tanh(self) -> Self;
    /// The error function, within 4e-7.
    fn fast_erf(self) -> Self;
}

impl Elementary for f64 {
    #[inline(always)]
    fn fast_exp(self) -> f64 {
        self.exp()
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
        // Beyond these the result is 0 or infinite; NaN passes both comparisons by.
        let x = if self > 89.0 { 89.0 } else { self };
        let x = if x < -104.0 { -104.0 } else { x };
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
        let y = p * r * r + r + 1.0;
        // 2^n in two factors, so that neither overflows where the product does not.
        let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        let half = n >> 1;
        let power = |k: i32| f32::from_bits((k.wrapping_add(127) << 23) as u32);
        y * power(half) * power(n - half)
    }

    /// Cephes' `tanhf`: an odd polynomial near zero, `1 - 2 / (e^2x + 1)` elsewhere.
    #[inline(always)]
    fn fast_tanh(self) -> f32 {
        let a = self.abs();
        let far = 1.0 - 2.0 / ((2.0 * a).fast_exp() + 1.0);
        let z = self * self;
        let p = -5.704_988_7e-3;
        let p = p * z + 2.063_908_9e-2;
        let p = p * z - 5.373_971_6e-2;
        let p = p * z + 1.333_144_2e-1;
        let p = p * z - 3.333_328e-1;
        let near = self + self * z * p;
        let far = if self < 0.0 { -far } else { far };
        if a < 0.625 { near } else { far }
    }

    /// A rational approximation on [-4, 4] (as in Eigen); beyond, the result rounds to 1.
    #[inline(always)]
    fn fast_erf(self) -> f32 {
        let x = if self > 4.0 { 4.0 } else { self };
        let x = if x < -4.0 { -4.0 } else { x };
        let z = x * x;
        let p = -2.726_142_4e-10;
        let p = p * z + 2.770_681_5e-8;
        let p = p * z - 2.101_024e-6;
        let p = p * z - 5.692_506_3e-5;
        let p = p * z - 7.349_906_3e-4;
        let p = p * z - 2.954_6e-3;
        let p = p * z - 1.609_603_4e-2;
        let q = -1.456_607_2e-5;
        let q = q * z - 2.133_740_6e-4;
        let q = q * z - 1.682_827e-3;
        let q = q * z - 7.373_329_3e-3;
        let q = q * z - 1.426_473_9e-2;
        x * p / q
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(from: f32, to: f32, fast: fn(f32) -> f32, exact: fn(f64) -> f64, absolute: bool) -> f64 {
        (0..200_000)
            .map(|i| from + (to - from) * i as f32 / 200_000.0)
            .map(|x| {
                let (got, exact) = (f64::from(fast(x)), exact(f64::from(x)));
                let unit = if absolute { 1.0 } else { exact.abs().max(1e-37) };
                (got - exact).abs() / unit
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn functions_stay_within_their_bounds() {
        let ulp = f64::from(f32::EPSILON) / 2.0;
        assert!(worst(-87.0, 88.7, Elementary::fast_exp, f64::exp, false) <= 4.0 * ulp);
        assert!(worst(-10.0, 10.0, Elementary::fast_tanh, f64::tanh, false) <= 6.0 * ulp);
        assert!(worst(-6.0, 6.0, Elementary::fast_erf, libm::erf, true) <= 4e-7);
    }

    #[test]
    fn extremes_are_those_of_the_exact_functions() {
        assert_eq!(f32::INFINITY.fast_exp(), f32::INFINITY);
        assert_eq!(100f32.fast_exp(), f32::INFINITY);
        assert_eq!(f32::NEG_INFINITY.fast_exp(), 0.0);
        assert!(
            f32::NAN.fast_exp().is_nan() && f32::NAN.fast_tanh().is_nan() && f32::NAN.fast_erf().is_nan()
        );
        assert_eq!((0f32.fast_exp(), 0f32.fast_tanh(), 0f32.fast_erf()), (1.0, 0.0, 0.0));
        assert_eq!((f32::INFINITY.fast_tanh(), f32::NEG_INFINITY.fast_tanh()), (1.0, -1.0));
    }
}
