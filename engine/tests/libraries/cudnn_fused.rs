//! Convolutions fused with the normalisation of their input and with the statistics of their output.
use crate::cudnn::{BASE, reference};
use crate::device::{Block, Device};
use crate::numbers::{error, from_bytes, random, round, to_bytes};
use fornax_engine::cuda::LibraryError;
use fornax_engine::cuda::cudnn::{
    ChannelAffine, ChannelSums, ConvBenchmark, ConvEngineOptions, ConvKind, ConvPlanChoice, ConvProblem,
    Cudnn,
};
use fornax_engine::{ConvShape, DType};
use fornax_kernels::emulator::{EngineFault, plant_engine};

const WHOLE: ConvShape = ConvShape { c_in: 8, c_out: 16, ..BASE };
const OPTIONS: ConvEngineOptions =
    ConvEngineOptions { tf32: false, deterministic: true, choice: ConvPlanChoice::Heuristic };

struct FusedValues {
    tensors: [Vec<f64>; 3],
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl FusedValues {
    /// Scale and shift are exact in bf16, so that each step rounds only once.
    fn of(s: &ConvShape, dtype: DType) -> FusedValues {
        let tensors = [
            random(1, s.input_len(), dtype),
            random(2, s.weight_len(), dtype),
            random(3, s.output_len(), dtype),
        ];
        FusedValues { tensors, scale: random(4, s.c_in, DType::BF16), shift: random(5, s.c_in, DType::BF16) }
    }

    /// The tensors with the normalised image, rounded as by the fused convolution.
    fn normalized(&self, dtype: DType, between: DType) -> [Vec<f64>; 3] {
        let step = |value: f64, to| round(f64::from(value as f32), to);
        let [mut image, weight, output] = self.tensors.clone();
        for (i, x) in image.iter_mut().enumerate() {
            let c = i % self.scale.len();
            *x = step(step(step(*x * self.scale[c], between) + self.shift[c], between), dtype).max(0.0);
        }
        [image, weight, output]
    }
}

struct FusedResult {
    result: Vec<f64>,
    sums: Vec<f64>,
    squares: Vec<f64>,
}

fn run(
    kind: ConvKind,
    s: &ConvShape,
    (dtype, options): (DType, ConvEngineOptions),
    values: &FusedValues,
    (normalize, statistics): (bool, bool),
) -> Result<FusedResult, LibraryError> {
    let device = Device::open();
    // SAFETY: the device outlives `dnn`, and opening it made its context current.
    let dnn = unsafe { Cudnn::new(device.stream(), "emulated") }.unwrap();
    let upload = |values: &[f64], dtype| device.upload(&to_bytes(values, dtype), 0);
    let [mut tensors, of_affine] =
        [values.tensors.clone(), [values.scale.clone(), values.shift.clone(), vec![]]];
    let target = if kind == ConvKind::Forward { 2 } else { 1 };
    tensors[target].fill(f64::NAN);
    let [x, w, y] = tensors.each_ref().map(|t| upload(t, dtype));
    let [scale, shift, _] = of_affine.each_ref().map(|t| upload(t, ConvProblem::affine_dtype(dtype)));
    let [sum, squares] = [(); 2].map(|()| upload(&vec![f64::NAN; s.c_out], DType::F32));
    let affine = ChannelAffine { scale: scale.pointer(), shift: shift.pointer() };
    let sums = ChannelSums { sum: sum.pointer(), squares: squares.pointer(), channels: s.c_out };
    let mut workspaces: Vec<Block> = Vec::new();
    let workspace = &mut |bytes: usize| {
        workspaces.push(device.allocate(bytes, 0));
        Ok(workspaces[workspaces.len() - 1].pointer())
    };
    let (px, pw, py) = (x.pointer(), w.pointer(), y.pointer());
    // Twice: the second call uses the plan, or the error, that the first one cached.
    let [first, second] = [(); 2].map(|()| {
        // SAFETY: the blocks have the shapes' sizes, and live until the download has waited for the stream.
        unsafe {
            if kind == ConvKind::Forward {
                let (x, y) = ((px, normalize.then_some(affine)), (py, statistics.then_some(sums)));
                dnn.forward_fused(s, dtype, options, x, pw, y, None, workspace)
            } else {
                dnn.weight_gradient_fused(s, dtype, options, (px, affine), py, pw, workspace)
            }
        }
    });
    assert_eq!(first.is_ok(), second.is_ok(), "{first:?}, then {second:?}");
    second?;
    let read = |block, dtype| from_bytes(&device.download(block), dtype);
    Ok(FusedResult {
        result: read([&x, &w, &y][target], dtype),
        sums: read(&sum, DType::F32),
        squares: read(&squares, DType::F32),
    })
}

/// Dtype of the intermediate results of the normalisation.
fn between(dtype: DType, is_precompiled: bool) -> DType {
    if dtype == DType::F16 && is_precompiled { DType::F32 } else { dtype }
}

#[test]
fn fused_statistics_match_the_output() {
    let tf32 = ConvEngineOptions { tf32: true, ..OPTIONS };
    let odd = ConvShape { c_in: 3, c_out: 5, stride: [2, 2], ..WHOLE };
    for s in [WHOLE, odd, ConvShape { groups: 2, ..WHOLE }] {
        for (dtype, options) in [(DType::F16, OPTIONS), (DType::BF16, OPTIONS), (DType::F32, tf32)] {
            let values = FusedValues::of(&s, dtype);
            let got = run(ConvKind::Forward, &s, (dtype, options), &values, (false, true)).unwrap();
            let (want, scale) = reference(ConvKind::Forward, &s, &values.tensors);
            if dtype != DType::F32 {
                assert!(error(&got.result, &want, &scale, dtype) <= 1.0, "{dtype} {s:?}");
            }
            for (of_power, sums) in [(1, &got.sums), (2, &got.squares)] {
                let column = |j: usize, absolute: bool| -> f64 {
                    let values = got.result.iter().skip(j).step_by(s.c_out).map(|y| y.powi(of_power));
                    if absolute { values.map(f64::abs).sum() } else { values.sum() }
                };
                let want: Vec<f64> = (0..s.c_out).map(|j| column(j, false)).collect();
                let scale: Vec<f64> = (0..s.c_out).map(|j| column(j, true)).collect();
                assert!(error(sums, &want, &scale, DType::F32) <= 1.0, "{dtype} {s:?} power {of_power}");
            }
        }
    }
}

#[test]
fn engine_that_accumulates_starts_from_zero_sums() {
    Device::open();
    let benchmark = ConvBenchmark { disk_cache: false, ..ConvBenchmark::default() };
    let options = ConvEngineOptions { choice: ConvPlanChoice::Benchmark(benchmark), ..OPTIONS };
    // With these engines slow, the others win, which add to their sums. The memory of the sums holds NaN.
    for (dtype, overwriting) in [(DType::F16, 40), (DType::BF16, 53)] {
        plant_engine(overwriting, 50.0, EngineFault::None).unwrap();
        let values = FusedValues::of(&WHOLE, dtype);
        let got = run(ConvKind::Forward, &WHOLE, (dtype, options), &values, (false, true)).unwrap();
        for c in 0..WHOLE.c_out {
            let column = || got.result.iter().skip(c).step_by(WHOLE.c_out);
            let (sum, squares): (f64, f64) = (column().sum(), column().map(|v| v * v).sum());
            assert!((got.sums[c] - sum).abs() <= 1e-4, "{dtype}, channel {c}: {} for {sum}", got.sums[c]);
            let error = (got.squares[c] - squares).abs();
            assert!(error <= 1e-5 * squares, "{dtype}, channel {c}: {} for {squares}", got.squares[c]);
        }
    }
}

#[test]
fn fused_normalisation_matches_plain_loops() {
    for s in [WHOLE, ConvShape { kernel: [1, 1], padding: [0, 0], ..WHOLE }] {
        for dtype in [DType::F16, DType::BF16] {
            for statistics in [false, true] {
                let values = FusedValues::of(&s, dtype);
                let got = run(ConvKind::Forward, &s, (dtype, OPTIONS), &values, (true, statistics)).unwrap();
                let normalized = values.normalized(dtype, between(dtype, statistics));
                let (want, scale) = reference(ConvKind::Forward, &s, &normalized);
                let worst = error(&got.result, &want, &scale, dtype);
                assert!(worst <= 1.0, "{dtype}, statistics {statistics}, {s:?}: {worst}");
            }
        }
        let values = FusedValues::of(&s, DType::F16);
        let kind = ConvKind::WeightGradient;
        let got = run(kind, &s, (DType::F16, OPTIONS), &values, (true, false)).unwrap();
        let (want, scale) = reference(kind, &s, &values.normalized(DType::F16, DType::F32));
        assert!(error(&got.result, &want, &scale, DType::F16) <= 1.0, "weight gradient of {s:?}");
    }
}

#[test]
fn unsupported_fusions_are_rejected() {
    let odd = ConvShape { c_in: 12, ..WHOLE };
    let grouped = ConvShape { groups: 2, ..WHOLE };
    let (forward, weight) = (ConvKind::Forward, ConvKind::WeightGradient);
    for (what, kind, s, dtype, fusion) in [
        ("bf16 weight gradient", weight, WHOLE, DType::BF16, (true, false)),
        ("12 channels in f16", forward, odd, DType::F16, (true, true)),
        ("12 channels in f16, weight gradient", weight, odd, DType::F16, (true, false)),
        ("groups", forward, grouped, DType::BF16, (true, true)),
        // A runtime-compiled engine may round to TF32.
        ("strict f32", forward, WHOLE, DType::F32, (false, true)),
    ] {
        let error = run(kind, &s, (dtype, OPTIONS), &FusedValues::of(&s, dtype), fusion).err();
        assert!(matches!(error, Some(LibraryError::Unsupported { .. })), "{what}: {error:?}");
    }
}
