//! One-dimensional Winograd transforms of registers: F(4,3), and F(3,3) and F(2,3) on subsets of its points.
//!
//! A convolution of three taps is a multiplication of polynomials, computed from their values at six points: 0, ±A, ±B and infinity.
//! Tiles of `R` < 4 outputs need `R + 2` points only. The scale of a point depends on the set of points; the input transform contains the
//! ratio to the scale in F(4,3), so one weight transform serves every `R`.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), with points ±3/4 and ±3/2 in place of ±1 and ±2, which
//! halves the rounding error.
use crate::cpu::simd::Simd;

/// Number of points.
pub(super) const POINTS: usize = 6;

const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;
/// Scales of the points 0, ±A and ±B: `1 / product of the distances to the other finite points`.
const SCALE_0: f32 = 1.0 / (A2 * B2);
const SCALE_A: f32 = 1.0 / (2.0 * A2 * (A2 - B2));
const SCALE_B: f32 = 1.0 / (2.0 * B2 * (B2 - A2));

/// True if tiles of `outputs` outputs use this point.
#[inline(always)]
pub(super) const fn uses(outputs: usize, point: usize) -> bool {
    match outputs {
        2 => point < 3 || point == 5,
        3 => point != 4,
        _ => true,
    }
}

#[inline(always)]
unsafe fn scaled<S: Simd>(factor: f32, x: S::V) -> S::V {
    S::mul(S::splat(factor), x)
}

/// `factor * x + y`.
#[inline(always)]
unsafe fn add_scaled<S: Simd>(factor: f32, x: S::V, y: S::V) -> S::V {
    S::fma(S::splat(factor), x, y)
}

/// Transform of the `R + 2` inputs of a tile. Unused points are arbitrary.
///
/// # Safety
/// The conditions of [`Simd`].
#[inline(always)]
pub(super) unsafe fn input<S: Simd, const R: usize>(d: [S::V; POINTS]) -> [S::V; POINTS] {
    match R {
        2 => {
            let far = A2 - B2;
            let (even, odd) = (scaled::<S>(far, d[2]), scaled::<S>(far * A, d[1]));
            let zero = add_scaled::<S>(A2 * B2, d[0], scaled::<S>(-B2, d[2]));
            [zero, S::add(even, odd), S::sub(even, odd), d[0], d[0], add_scaled::<S>(-A2, d[1], d[3])]
        }
        3 => {
            let zero = add_scaled::<S>(B, d[3], scaled::<S>(-B2, d[2]));
            let zero = add_scaled::<S>(-A2 * B, d[1], zero);
            let plus = add_scaled::<S>(A - B, d[2], d[3]);
            let plus = add_scaled::<S>(-A * B, d[1], plus);
            let minus = add_scaled::<S>(-(A + B), d[2], d[3]);
            let minus = add_scaled::<S>(A * B, d[1], minus);
            let infinity = add_scaled::<S>(-B, d[3], d[4]);
            let infinity = add_scaled::<S>(-A2, d[2], infinity);
            [
                add_scaled::<S>(A2 * B2, d[0], zero),
                scaled::<S>(A + B, plus),
                scaled::<S>(B - A, minus),
                scaled::<S>(2.0 * B, add_scaled::<S>(-A2, d[1], d[3])),
                d[0],
                add_scaled::<S>(A2 * B, d[1], infinity),
            ]
        }
        _ => {
            let (even_a, odd_a) = (add_scaled::<S>(-B2, d[2], d[4]), add_scaled::<S>(-B2, d[1], d[3]));
            let (even_b, odd_b) = (add_scaled::<S>(-A2, d[2], d[4]), add_scaled::<S>(-A2, d[1], d[3]));
            [
                add_scaled::<S>(A2 * B2, d[0], add_scaled::<S>(-(A2 + B2), d[2], d[4])),
                add_scaled::<S>(A, odd_a, even_a),
                add_scaled::<S>(-A, odd_a, even_a),
                add_scaled::<S>(B, odd_b, even_b),
                add_scaled::<S>(-B, odd_b, even_b),
                add_scaled::<S>(A2 * B2, d[1], add_scaled::<S>(-(A2 + B2), d[3], d[5])),
            ]
        }
    }
}

/// The `R` outputs of a tile from its values at the points.
///
/// # Safety
/// The conditions of [`Simd`].
#[inline(always)]
pub(super) unsafe fn output<S: Simd, const R: usize>(m: [S::V; POINTS]) -> [S::V; 4] {
    let (even, odd) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
    match R {
        2 => [S::add(m[0], even), add_scaled::<S>(A, odd, m[5]), even, even],
        3 => [
            S::add(S::add(m[0], even), m[3]),
            add_scaled::<S>(A, odd, scaled::<S>(B, m[3])),
            add_scaled::<S>(A2, even, add_scaled::<S>(B2, m[3], m[5])),
            even,
        ],
        _ => {
            let (even_b, odd_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
            [
                S::add(S::add(m[0], even), even_b),
                add_scaled::<S>(A, odd, scaled::<S>(B, odd_b)),
                add_scaled::<S>(A2, even, scaled::<S>(B2, even_b)),
                add_scaled::<S>(A * A2, odd, add_scaled::<S>(B * B2, odd_b, m[5])),
            ]
        }
    }
}

/// Transform of the gradient of a tile's `R` outputs, the transpose of [`output`]. Unused points are arbitrary.
///
/// # Safety
/// The conditions of [`Simd`].
#[inline(always)]
pub(super) unsafe fn output_gradient<S: Simd, const R: usize>(y: [S::V; 4]) -> [S::V; POINTS] {
    match R {
        2 => [y[0], add_scaled::<S>(A, y[1], y[0]), add_scaled::<S>(-A, y[1], y[0]), y[0], y[0], y[1]],
        3 => {
            let even = add_scaled::<S>(A2, y[2], y[0]);
            [
                y[0],
                add_scaled::<S>(A, y[1], even),
                add_scaled::<S>(-A, y[1], even),
                add_scaled::<S>(B, y[1], add_scaled::<S>(B2, y[2], y[0])),
                y[0],
                y[2],
            ]
        }
        _ => {
            let (even_a, odd_a) = (add_scaled::<S>(A2, y[2], y[0]), add_scaled::<S>(A2, y[3], y[1]));
            let (even_b, odd_b) = (add_scaled::<S>(B2, y[2], y[0]), add_scaled::<S>(B2, y[3], y[1]));
            [
                y[0],
                add_scaled::<S>(A, odd_a, even_a),
                add_scaled::<S>(-A, odd_a, even_a),
                add_scaled::<S>(B, odd_b, even_b),
                add_scaled::<S>(-B, odd_b, even_b),
                y[3],
            ]
        }
    }
}

/// Transform of three taps.
///
/// # Safety
/// The conditions of [`Simd`].
#[inline(always)]
pub(super) unsafe fn weight<S: Simd>(w: [S::V; 3]) -> [S::V; POINTS] {
    let even_a = add_scaled::<S>(SCALE_A * A2, w[2], scaled::<S>(SCALE_A, w[0]));
    let even_b = add_scaled::<S>(SCALE_B * B2, w[2], scaled::<S>(SCALE_B, w[0]));
    [
        scaled::<S>(SCALE_0, w[0]),
        add_scaled::<S>(SCALE_A * A, w[1], even_a),
        add_scaled::<S>(-SCALE_A * A, w[1], even_a),
        add_scaled::<S>(SCALE_B * B, w[1], even_b),
        add_scaled::<S>(-SCALE_B * B, w[1], even_b),
        w[2],
    ]
}

/// Gradient of three taps from the gradient of their transform, the transpose of [`weight`].
///
/// # Safety
/// The conditions of [`Simd`].
#[inline(always)]
pub(super) unsafe fn weight_gradient<S: Simd>(m: [S::V; POINTS]) -> [S::V; 3] {
    let (even_a, odd_a) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
    let (even_b, odd_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
    let finite = add_scaled::<S>(SCALE_B * B2, even_b, m[5]);
    [
        add_scaled::<S>(SCALE_0, m[0], add_scaled::<S>(SCALE_A, even_a, scaled::<S>(SCALE_B, even_b))),
        add_scaled::<S>(SCALE_A * A, odd_a, scaled::<S>(SCALE_B * B, odd_b)),
        add_scaled::<S>(SCALE_A * A2, even_a, finite),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::Portable;

    type V = <Portable as Simd>::V;

    /// Registers whose lanes all hold these values.
    fn registers<const N: usize>(values: [f32; N]) -> [V; N] {
        // SAFETY: the portable level needs no features.
        values.map(|v| unsafe { Portable::splat(v) })
    }

    fn first_lane(v: V) -> f64 {
        let mut lanes = [0.0; Portable::LANES];
        // SAFETY: the array holds a register.
        unsafe { Portable::store(lanes.as_mut_ptr(), v) };
        f64::from(lanes[0])
    }

    const D: [f32; 6] = [0.3, -1.2, 0.7, 2.1, -0.4, 0.9];
    const W: [f32; 3] = [0.5, -0.8, 1.3];
    const DY: [f32; 4] = [1.1, -0.6, 0.2, -1.7];

    fn check<const R: usize>() {
        // SAFETY: the portable level needs no features.
        let (v, u, g) = unsafe {
            (
                input::<Portable, R>(registers(D)),
                weight::<Portable>(registers(W)),
                output_gradient::<Portable, R>(registers(DY)),
            )
        };
        let zero = registers([0.0; POINTS]);
        let (mut m, mut gradient) = (zero, zero);
        for q in (0..POINTS).filter(|q| uses(R, *q)) {
            // SAFETY: as above.
            unsafe {
                m[q] = Portable::mul(v[q], u[q]);
                gradient[q] = Portable::mul(v[q], g[q]);
            }
        }
        // SAFETY: as above.
        let (y, dw) = unsafe { (output::<Portable, R>(m), weight_gradient::<Portable>(gradient)) };
        for (i, y) in y.into_iter().enumerate().take(R) {
            let want: f64 = (0..3).map(|k| f64::from(D[i + k]) * f64::from(W[k])).sum();
            assert!((first_lane(y) - want).abs() < 1e-5, "R = {R}, output {i}: {} for {want}", first_lane(y));
        }
        for (k, dw) in dw.into_iter().enumerate() {
            let want: f64 = (0..R).map(|i| f64::from(D[i + k]) * f64::from(DY[i])).sum();
            assert!((first_lane(dw) - want).abs() < 1e-5, "R = {R}, tap {k}: {} for {want}", first_lane(dw));
        }
    }

    #[test]
    fn transforms_of_every_tile_size_give_the_correlation_and_its_weight_gradient() {
        check::<2>();
        check::<3>();
        check::<4>();
    }
}
