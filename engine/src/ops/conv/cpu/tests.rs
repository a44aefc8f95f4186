//! Forward pass and gradients against the definition in plain f64 loops.
use super::half::bf16_pairs;
use super::*;
use crate::ConvAlgorithm;
use crate::cpu::simd::{self, Level};
use crate::cpu::stored::Stored;
use crate::dtype::{Element, bf16, f16};

/// (n, h, w, c_in, c_out, kernel, stride, padding, dilation, groups)
type CaseRow = (usize, usize, usize, usize, usize, [usize; 2], [usize; 2], [usize; 2], [usize; 2], usize);

const CASES: &[CaseRow] = &[
    // Few input channels: common stems.
    (2, 9, 10, 1, 32, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    (2, 17, 15, 3, 40, [7, 7], [2, 2], [3, 3], [1, 1], 1),
    (3, 12, 32, 3, 33, [3, 3], [2, 2], [1, 1], [1, 1], 1),
    (2, 33, 32, 3, 20, [16, 16], [16, 16], [0, 0], [1, 1], 1),
    // 3x3, with full and partial registers.
    (3, 9, 10, 32, 64, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    (2, 5, 24, 17, 19, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    (2, 30, 31, 8, 24, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    (13, 4, 4, 32, 80, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    (14, 7, 6, 20, 48, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    (7, 2, 2, 5, 7, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    // Winograd: full and smaller last tiles, one or several images per block, more columns than a panel, few tiles and many.
    (2, 8, 8, 32, 48, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    (5, 7, 6, 48, 32, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    (2, 13, 23, 64, 32, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    (3, 29, 28, 32, 80, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    (1, 4, 5, 32, 272, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    (9, 14, 14, 96, 144, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    (1, 5, 4, 320, 272, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    // Strides.
    (3, 9, 10, 32, 32, [3, 3], [2, 2], [1, 1], [1, 1], 1),
    (2, 48, 47, 16, 18, [3, 3], [2, 2], [1, 1], [1, 1], 1),
    (9, 8, 8, 16, 33, [3, 3], [2, 2], [1, 1], [1, 1], 1),
    (7, 20, 18, 8, 24, [3, 3], [2, 2], [1, 1], [1, 1], 1),
    (2, 11, 8, 6, 9, [3, 2], [3, 1], [0, 1], [1, 1], 1),
    (2, 9, 9, 6, 9, [2, 2], [3, 3], [0, 0], [1, 1], 1),
    // 1x1.
    (2, 12, 12, 16, 64, [1, 1], [1, 1], [0, 0], [1, 1], 1),
    (2, 9, 7, 24, 144, [1, 1], [1, 1], [0, 0], [1, 1], 1),
    (2, 9, 8, 40, 24, [1, 1], [2, 2], [0, 0], [1, 1], 1),
    (2, 5, 5, 4, 6, [1, 1], [1, 1], [1, 2], [1, 1], 1),
    // Excess padding, dilation, rectangles.
    (2, 5, 6, 7, 10, [3, 3], [2, 2], [4, 3], [1, 1], 1),
    (1, 1, 1, 3, 5, [1, 1], [7, 7], [3, 3], [1, 1], 1),
    (2, 12, 13, 18, 21, [3, 3], [1, 1], [2, 2], [2, 2], 1),
    (2, 13, 40, 5, 16, [3, 3], [2, 1], [2, 3], [2, 3], 1),
    (2, 8, 21, 6, 34, [1, 7], [1, 1], [0, 3], [1, 1], 1),
    (2, 21, 8, 6, 34, [7, 1], [1, 2], [3, 0], [1, 1], 1),
    // Groups, narrow and wide.
    (2, 9, 9, 32, 32, [3, 3], [1, 1], [1, 1], [1, 1], 8),
    (2, 9, 8, 48, 96, [3, 3], [2, 2], [1, 1], [1, 1], 3),
    (8, 6, 6, 40, 24, [3, 3], [1, 1], [1, 1], [2, 2], 2),
    (2, 7, 24, 72, 72, [3, 3], [1, 1], [1, 1], [1, 1], 3),
    (2, 6, 5, 12, 18, [1, 1], [1, 1], [0, 0], [1, 1], 6),
    (2, 9, 10, 40, 40, [3, 3], [2, 1], [1, 1], [1, 1], 20),
    (2, 7, 9, 64, 64, [3, 3], [1, 1], [1, 1], [1, 1], 8),
    (2, 7, 9, 24, 24, [5, 5], [1, 1], [2, 2], [1, 1], 3),
    (2, 8, 9, 48, 48, [3, 3], [1, 1], [2, 2], [2, 2], 12),
    // Depthwise: sizes, strides, tails, multiplier, dilation.
    (2, 9, 10, 32, 32, [3, 3], [1, 1], [1, 1], [1, 1], 32),
    (2, 15, 14, 37, 37, [3, 3], [2, 2], [1, 1], [1, 1], 37),
    (2, 8, 7, 20, 20, [5, 5], [1, 1], [2, 2], [1, 1], 20),
    (2, 16, 15, 24, 24, [5, 5], [2, 2], [2, 2], [1, 1], 24),
    (2, 11, 12, 19, 19, [7, 7], [1, 1], [3, 3], [1, 1], 19),
    (2, 4, 3, 16, 16, [7, 7], [1, 1], [3, 3], [1, 1], 16),
    (3, 1, 1, 16, 16, [3, 3], [1, 1], [1, 1], [1, 1], 16),
    (2, 12, 11, 9, 9, [3, 3], [1, 1], [2, 2], [2, 2], 9),
    (2, 8, 8, 6, 18, [3, 3], [1, 1], [1, 1], [1, 1], 6),
    (2, 140, 141, 56, 56, [3, 3], [1, 1], [1, 1], [1, 1], 56),
    (2, 141, 140, 57, 57, [5, 5], [2, 2], [2, 2], [1, 1], 57),
    (2, 9, 6, 8, 8, [4, 2], [3, 2], [5, 1], [1, 2], 8),
    (1, 41, 60, 96, 96, [3, 3], [1, 1], [1, 1], [1, 1], 96),
    (1, 43, 58, 80, 80, [5, 5], [2, 2], [2, 2], [1, 1], 80),
];

fn shape(row: &CaseRow) -> ConvShape {
    let &(n, h, w, c_in, c_out, kernel, stride, padding, dilation, groups) = row;
    let algorithm = ConvAlgorithm::Auto;
    ConvShape { n, h, w, c_in, c_out, kernel, stride, padding, dilation, groups, algorithm }
}

fn random<T: Real>(len: usize, seed: u64) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Exactly representable in f32, so that both dtypes get the same values.
        T::from_f64((state >> 40) as f64 / (1u64 << 24) as f64 - 0.5)
    };
    (0..len).map(|_| next()).collect()
}

/// Expected results in f64.
struct Expected {
    y: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
}

/// Definition of the convolution, tap by tap: output (oy, ox, o) reads input (oy*s + ky*d - p, ox*s + kx*d - p, i).
fn definition(s: &ConvShape, x: &[f64], weight: &[f64], bias: &[f64], dy: &[f64]) -> Expected {
    let (mut y, mut dx) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
    let mut dw = vec![0.0; weight.len()];
    for pixel in 0..s.n * s.out_h() * s.out_w() {
        let (n, oy, ox) = (pixel / (s.out_h() * s.out_w()), pixel / s.out_w() % s.out_h(), pixel % s.out_w());
        for o in 0..s.c_out {
            let out = pixel * s.c_out + o;
            y[out] += bias[o];
            for (ky, kx) in (0..s.kernel[0]).flat_map(|ky| (0..s.kernel[1]).map(move |kx| (ky, kx))) {
                let iy = (oy * s.stride[0] + ky * s.dilation[0]).wrapping_sub(s.padding[0]);
                let ix = (ox * s.stride[1] + kx * s.dilation[1]).wrapping_sub(s.padding[1]);
                if iy >= s.h || ix >= s.w {
                    continue;
                }
                for i in 0..s.group_in() {
                    let channel = o / s.group_out() * s.group_in() + i;
                    let input = ((n * s.h + iy) * s.w + ix) * s.c_in + channel;
                    let tap = ((o * s.kernel[0] + ky) * s.kernel[1] + kx) * s.group_in() + i;
                    y[out] += x[input] * weight[tap];
                    dx[input] += dy[out] * weight[tap];
                    dw[tap] += dy[out] * x[input];
                }
            }
        }
    }
    Expected { y, dx, dw }
}

fn assert_close<T: Element>(what: &str, s: &ConvShape, got: &[T], want: &[f64], tolerance: f64) {
    let scale = want.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (Element::to_f64(*g) - w).abs();
        assert!(error <= tolerance * scale, "{what} [{i}] is {g:?}, not {w} ({:?}, {s:?})", simd::level());
    }
}

fn inputs<T: Real>(s: &ConvShape) -> [Vec<T>; 4] {
    [random(s.input_len(), 1), random(s.weight_len(), 2), random(s.c_out, 3), random(s.output_len(), 4)]
}

/// y with bias, y without bias, dx, dw. Outputs start as NaN to reveal unwritten elements.
fn results<T: Real>(s: &ConvShape) -> [Vec<T>; 4] {
    let [x, weight, bias, dy] = inputs::<T>(s);
    let fresh = |len| vec![T::from_f64(f64::NAN); len];
    let mut out = [s.output_len(), s.output_len(), s.input_len(), s.weight_len()].map(fresh);
    forward(s, &x, &weight, Some(&bias), &mut out[0]);
    forward(s, &x, &weight, None, &mut out[1]);
    data_gradient(s, &dy, &weight, &mut out[2]);
    weight_gradient(s, &x, &dy, &mut out[3]);
    out
}

fn compare<T: Real>(s: &ConvShape, want: &Expected, tolerance: f64) {
    let bias: Vec<f64> = random(s.c_out, 3);
    let [y, plain, dx, dw] = results::<T>(s);
    let without: Vec<f64> = want.y.iter().enumerate().map(|(i, v)| v - bias[i % s.c_out]).collect();
    assert_close("y", s, &y, &want.y, tolerance);
    assert_close("y without bias", s, &plain, &without, tolerance);
    assert_close("dx", s, &dx, &want.dx, tolerance);
    assert_close("dw", s, &dw, &want.dw, tolerance);
}

/// One test for all levels, because the level is global to the process.
#[test]
fn forward_and_gradients_match_definition_at_every_simd_level() {
    let _guard = simd::lock_level();
    let detected = simd::level();
    for s in CASES.iter().map(shape) {
        let [x, weight, bias, dy] = inputs::<f64>(&s);
        let want = definition(&s, &x, &weight, &bias, &dy);
        compare::<f64>(&s, &want, 1e-12);
        for level in Level::supported() {
            simd::set_max_level(*level);
            compare::<f32>(&s, &want, 2e-5);
        }
    }
    simd::set_max_level(detected);
}

#[test]
fn results_are_bitwise_equal_for_any_number_of_threads() {
    let _guard = simd::lock_level();
    for s in CASES.iter().map(shape) {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            pool.install(|| results::<f32>(&s)).map(|v| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3), "{s:?}");
    }
}

#[test]
fn prologue_gives_the_bits_of_a_separate_pass_at_every_simd_level() {
    use crate::Activation::{HardSwish, Identity, Relu, Relu6, Silu};
    let _guard = simd::lock_level();
    let detected = simd::level();
    let (mut forward_passes, mut weight_gradients) = (0, 0);
    for s in CASES.iter().map(shape) {
        let [mut x, weight, bias, dy] = inputs::<f32>(&s);
        (x[0], x[1]) = (f32::NAN, -0.0);
        let channels = |seed: u64, factor: f32| {
            random::<f32>(s.c_in, seed).iter().map(|v| v * factor).collect::<Vec<_>>()
        };
        let (scale, shift) = (channels(5, 12.0), channels(6, 4.0));
        for (level, activation) in Level::supported()
            .iter()
            .flat_map(|level| [Identity, Relu, Relu6, Silu, HardSwish].map(|activation| (*level, activation)))
        {
            simd::set_max_level(level);
            let mut normalized = vec![f32::NAN; x.len()];
            crate::ops::batch_norm::cpu::apply(&x, &scale, &shift, None, activation, &mut normalized);
            let input =
                ConvInput { x: &x, prologue: Some(Prologue { scale: &scale, shift: &shift, activation }) };
            let bits =
                |v: &[f32]| v.iter().map(|v| if v.is_nan() { 0 } else { v.to_bits() }).collect::<Vec<_>>();
            if forward_supports(&s, activation) {
                let (mut y, mut want) = (dy.clone(), dy.clone());
                forward_of(&s, input, &weight, Some(&bias), &mut y);
                forward(&s, &normalized, &weight, Some(&bias), &mut want);
                assert!(bits(&y) == bits(&want), "forward, {activation:?}, {level:?}, {s:?}");
                forward_passes += 1;
            }
            if weight_gradient_supports(&s, activation) {
                let (mut dw, mut want) = (weight.clone(), weight.clone());
                weight_gradient_of(&s, input, &dy, &mut dw);
                weight_gradient(&s, &normalized, &dy, &mut want);
                assert!(bits(&dw) == bits(&want), "weight gradient, {activation:?}, {level:?}, {s:?}");
                weight_gradients += 1;
            }
        }
    }
    simd::set_max_level(detected);
    assert!(forward_passes > 200 && weight_gradients > 200, "{forward_passes}, {weight_gradients}");
}

/// The errors that docs/precision.md states: 256 channels, ReLU inputs, weights of He's variance.
#[test]
fn winograd_rounding_error_stays_below_four_times_the_direct_error() {
    let _guard = simd::lock_level();
    let s = shape(&(2, 16, 16, 256, 256, [3, 3], [1, 1], [1, 1], [1, 1], 1));
    let deviation = (2.0 / (9.0 * s.c_in as f64)).sqrt();
    let input = normal(s.input_len(), 1).into_iter().map(|v| v.max(0.0)).collect::<Vec<f32>>();
    let weight = normal(s.weight_len(), 2).into_iter().map(|v| v * deviation as f32).collect::<Vec<f32>>();
    let dy = normal(s.output_len(), 3);
    let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
    let (mut want, mut want_dw) = (vec![0.0; s.output_len()], vec![0.0; s.weight_len()]);
    forward(&s, &wide(&input), &wide(&weight), None, &mut want);
    weight_gradient(&s, &wide(&input), &wide(&dy), &mut want_dw);
    let [direct, winograd] = [ConvAlgorithm::Direct, ConvAlgorithm::Auto].map(|algorithm| {
        let s = ConvShape { algorithm, ..s };
        let (mut y, mut dw) = (vec![f32::NAN; s.output_len()], vec![f32::NAN; s.weight_len()]);
        forward(&s, &input, &weight, None, &mut y);
        weight_gradient(&s, &input, &dy, &mut dw);
        [relative_rms_error(&y, &want), relative_rms_error(&dw, &want_dw)]
    });
    println!("RMS error, forward pass and weight gradient: direct {direct:?}, Winograd {winograd:?}");
    assert!(direct.iter().all(|error| *error < 1e-6), "{direct:?}");
    assert!(winograd[0] < 4.0 * direct[0] && winograd[1] < 4.0 * direct[1], "{winograd:?}, {direct:?}");
}

/// Sum of twelve uniform values, which has the variance 1 and nearly the normal distribution.
fn normal(len: usize, seed: u64) -> Vec<f32> {
    random::<f64>(12 * len, seed).chunks(12).map(|values| values.iter().sum::<f64>() as f32).collect()
}

fn relative_rms_error(got: &[f32], want: &[f64]) -> f64 {
    let error: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
    (error / want.iter().map(|w| w * w).sum::<f64>()).sqrt()
}

/// Outputs larger than the last-level cache use non-temporal stores only if they are aligned.
#[test]
fn non_temporal_stores_give_the_same_bits() {
    let _guard = simd::lock_level();
    let side = |row: CaseRow| shape(&row);
    let shapes = [
        side((2, 400, 340, 2, 32, [1, 1], [1, 1], [0, 0], [1, 1], 1)),
        side((2, 400, 340, 2, 32, [3, 3], [1, 1], [1, 1], [1, 1], 1)),
        side((2, 400, 340, 32, 32, [3, 3], [1, 1], [1, 1], [1, 1], 32)),
    ];
    for s in shapes {
        let [x, weight, bias, _] = inputs::<f32>(&s);
        crate::cpu::scratch::with(s.output_len() + 1, |all: &mut [f32]| {
            let (aligned, _) = all.split_at_mut(s.output_len());
            forward(&s, &x, &weight, Some(&bias), aligned);
            let streamed: Vec<u32> = aligned.iter().map(|v| v.to_bits()).collect();
            let shifted = &mut all[1..];
            forward(&s, &x, &weight, Some(&bias), shifted);
            assert!(shifted.iter().map(|v| v.to_bits()).eq(streamed), "{s:?}");
        });
    }
}

/// y with bias, dx, dw in half precision. Outputs start as NaN.
fn half_results<T: Stored<Compute = f32>>(s: &ConvShape) -> [Vec<T>; 3] {
    let [x, weight, bias, dy] = inputs::<f64>(s).map(|v| v.into_iter().map(T::from_f64).collect::<Vec<_>>());
    let mut out = [s.output_len(), s.input_len(), s.weight_len()].map(|len| vec![T::from_f64(f64::NAN); len]);
    half::forward(s, ConvInput::plain(&x), &weight, Some(&bias), &mut out[0]);
    half::data_gradient(s, &dy, &weight, &mut out[1]);
    half::weight_gradient(s, ConvInput::plain(&x), &dy, &mut out[2]);
    out
}

/// Compares with the definition, to half an ulp of the largest element plus the error of the sums, on one and three threads. Returns the
/// number of shapes that a kernel supports.
fn check_half<T: Stored<Compute = f32>>(tolerance: f64) -> usize {
    let both = |s| [ConvAlgorithm::Auto, ConvAlgorithm::Direct].map(|algorithm| ConvShape { algorithm, ..s });
    let shapes: Vec<ConvShape> = CASES.iter().map(shape).flat_map(both).filter(half::supports::<T>).collect();
    for s in &shapes {
        let inputs = inputs::<f64>(s).map(|v| v.iter().map(|v| T::from_f64(*v).to_f64()).collect::<Vec<_>>());
        let want = definition(s, &inputs[0], &inputs[1], &inputs[2], &inputs[3]);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            pool.install(|| half_results::<T>(s).map(|v| v.iter().map(|v| v.to_f64()).collect::<Vec<_>>()))
        };
        let got = run(1);
        for (what, got, want) in
            [("y", &got[0], &want.y), ("dx", &got[1], &want.dx), ("dw", &got[2], &want.dw)]
        {
            assert_close(what, s, got, want, tolerance);
        }
        assert!(got == run(3), "{s:?}");
    }
    shapes.len()
}

#[test]
fn half_precision_matches_definition_on_any_number_of_threads() {
    let _guard = simd::lock_level();
    let widest = simd::level();
    let both = |s: &ConvShape| winograd::supports(s) || depthwise::supports(s);
    // With and without Winograd.
    let in_f32 = CASES.iter().map(shape).filter(both).count()
        + CASES.iter().map(shape).filter(depthwise::supports).count();
    for level in simd::Level::supported() {
        simd::set_max_level(*level);
        assert_eq!(check_half::<f16>(4.95e-4), in_f32);
        // Other shapes need bf16 instructions.
        let pairs = bf16_pairs::supports(&shape(&CASES[4]));
        assert!(!bf16_pairs::supports(&ConvShape { groups: 2, ..shape(&CASES[4]) }), "groups are widened");
        assert_eq!(check_half::<bf16>(3.95e-3) > in_f32, pairs);
    }
    simd::set_max_level(widest);
}

/// Checks that a prologue gives the bits of a pass of its own, on every shape whose kernels apply one. Returns the number of passes.
fn check_half_prologue<T: Stored<Compute = f32>>() -> usize {
    use crate::Activation::{HardSwish, Identity, Relu, Relu6, Silu};
    let mut passes = 0;
    for s in CASES.iter().map(shape).filter(half::supports_prologue::<T>) {
        let [mut x, weight, bias, dy] =
            inputs::<f64>(&s).map(|v| v.into_iter().map(T::from_f64).collect::<Vec<_>>());
        x[0] = T::from_f64(-0.0);
        let channels = |seed: u64, factor: f32| {
            random::<f32>(s.c_in, seed).iter().map(|v| v * factor).collect::<Vec<_>>()
        };
        let (scale, shift) = (channels(5, 12.0), channels(6, 4.0));
        for activation in [Identity, Relu, Relu6, Silu, HardSwish] {
            let mut normalized = vec![T::from_f64(f64::NAN); x.len()];
            crate::ops::batch_norm::cpu::apply(&x, &scale, &shift, None, activation, &mut normalized);
            let prologue = Some(Prologue { scale: &scale, shift: &shift, activation });
            let (input, plain) = (ConvInput { x: &x, prologue }, ConvInput::plain(&normalized));
            let bits = |v: &[T]| v.iter().map(|v| v.to_f64().to_bits()).collect::<Vec<_>>();
            let (mut y, mut want_y) = (dy.clone(), dy.clone());
            half::forward(&s, input, &weight, Some(&bias), &mut y);
            half::forward(&s, plain, &weight, Some(&bias), &mut want_y);
            assert!(bits(&y) == bits(&want_y), "forward, {activation:?}, {s:?}");
            let (mut dw, mut want_dw) = (weight.clone(), weight.clone());
            half::weight_gradient(&s, input, &dy, &mut dw);
            half::weight_gradient(&s, plain, &dy, &mut want_dw);
            assert!(bits(&dw) == bits(&want_dw), "weight gradient, {activation:?}, {s:?}");
            passes += 2;
        }
    }
    passes
}

#[test]
fn prologue_in_half_precision_gives_the_bits_of_a_separate_pass_at_every_simd_level() {
    let _guard = simd::lock_level();
    let widest = simd::level();
    for level in simd::Level::supported() {
        simd::set_max_level(*level);
        assert!(check_half_prologue::<f16>() >= 100, "depthwise shapes, two passes, five activations");
        assert!(check_half_prologue::<bf16>() >= 100, "depthwise shapes, two passes, five activations");
    }
    simd::set_max_level(widest);
}

/// Checks the kernels of `bf16_pairs` and `amx` by name: [`half`] takes one of them only. Tests nothing on CPUs without bf16 instructions;
/// `amx` runs in plain Rust on CPUs without tiles.
#[test]
#[cfg(target_arch = "x86_64")]
fn every_bf16_kernel_matches_definition() {
    let _guard = simd::lock_level();
    for s in CASES.iter().map(shape).filter(bf16_pairs::supports) {
        let [x, weight, bias, dy] =
            inputs::<f64>(&s).map(|v| v.into_iter().map(bf16::from_f64).collect::<Vec<_>>());
        let exact = [&x, &weight, &bias, &dy].map(|v| v.iter().map(|v| v.to_f64()).collect::<Vec<_>>());
        let want = definition(&s, &exact[0], &exact[1], &exact[2], &exact[3]);
        let bias: Vec<f32> = bias.iter().map(|b| b.to_f32()).collect();
        for tiles in [false, true] {
            let mut y = vec![bf16::NAN; s.output_len()];
            let (mut dx, mut dw) = (vec![bf16::NAN; s.input_len()], vec![f32::NAN; s.weight_len()]);
            if tiles {
                amx::forward(&s, ConvInput::plain(&x), &weight, Some(&bias), &mut y);
                amx::data_gradient(&s, &dy, &weight, &mut dx);
                amx::weight_gradient(&s, ConvInput::plain(&x), &dy, &mut dw);
            } else {
                bf16_pairs::forward(&s, &x, &weight, Some(&bias), &mut y);
                bf16_pairs::data_gradient(&s, &dy, &weight, &mut dx);
                bf16_pairs::weight_gradient(&s, &x, &dy, &mut dw);
            }
            let wide = |v: Vec<bf16>| v.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
            let what = |name: &str| format!("{name}, {}", if tiles { "tiles" } else { "pairs" });
            assert_close(&what("y"), &s, &wide(y), &want.y, 3.95e-3);
            assert_close(&what("dx"), &s, &wide(dx), &want.dx, 3.95e-3);
            assert_close(&what("dw"), &s, &dw, &want.dw, 2e-5);
        }
    }
}

/// Tests nothing on CPUs without bf16 instructions.
#[test]
fn bf16_pairs_accept_unaligned_input() {
    let s = shape(&CASES[4]);
    if !bf16_pairs::supports(&s) {
        return;
    }
    let x: Vec<bf16> = random::<f64>(s.input_len() + 1, 1).into_iter().map(bf16::from_f64).collect();
    let weight: Vec<bf16> = random::<f64>(s.weight_len(), 2).into_iter().map(bf16::from_f64).collect();
    let mut shifted = x.clone();
    shifted.rotate_right(1);
    let mut y = [vec![bf16::NAN; s.output_len()], vec![bf16::NAN; s.output_len()]];
    bf16_pairs::forward(&s, &x[..s.input_len()], &weight, None, &mut y[0]);
    bf16_pairs::forward(&s, &shifted[1..], &weight, None, &mut y[1]);
    assert!(y[0].iter().map(|v| v.to_bits()).eq(y[1].iter().map(|v| v.to_bits())));
}
