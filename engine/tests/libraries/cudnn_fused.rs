//! Convolutions fused with the statistics of their output.
use crate::cudnn::{BASE, KIND, reference};
use crate::device::{Block, Device};
use crate::numbers::{error, from_bytes, random, to_bytes};
use fornax_engine::cuda::LibraryError;
use fornax_engine::cuda::cudnn::{
    ChannelSums, ConvBenchmark, ConvEngineOptions, ConvKind, ConvPlanChoice, Cudnn,
};
use fornax_engine::{ConvShape, DType};
use fornax_kernels::emulator::{EngineFault, plant_engine};

const WHOLE: ConvShape = ConvShape { c_in: 8, c_out: 16, ..BASE };
const OPTIONS: ConvEngineOptions =
    ConvEngineOptions { tf32: false, deterministic: true, choice: ConvPlanChoice::Heuristic };

/// Image, weight and output, of which the last is not used.
fn operands(s: &ConvShape, dtype: DType) -> [Vec<f64>; 3] {
    [random(1, s.input_len(), dtype), random(2, s.weight_len(), dtype), vec![0.0; s.output_len()]]
}

struct FusedResult {
    result: Vec<f64>,
    sums: Vec<f64>,
    squares: Vec<f64>,
}

/// Runs the fused convolution twice; all results are initialised with NaN.
fn run(s: &ConvShape, dtype: DType, options: ConvEngineOptions) -> Result<FusedResult, LibraryError> {
    let device = Device::open();
    // SAFETY: the device outlives `dnn`, and opening it made its context current.
    let dnn = unsafe { Cudnn::new(device.stream(), "emulated", KIND) }.unwrap();
    let upload = |values: &[f64], dtype| device.upload(&to_bytes(values, dtype), 0);
    let [image, weight, _] = operands(s, dtype);
    let (x, w) = (upload(&image, dtype), upload(&weight, dtype));
    let y = upload(&vec![f64::NAN; s.output_len()], dtype);
    let [sum, squares] = [(); 2].map(|()| upload(&vec![f64::NAN; s.c_out], DType::F32));
    let sums = ChannelSums { sum: sum.pointer(), squares: squares.pointer(), channels: s.c_out };
    let mut workspaces: Vec<Block> = Vec::new();
    let workspace = &mut |bytes: usize| {
        workspaces.push(device.allocate(bytes, 0));
        Ok(workspaces[workspaces.len() - 1].pointer())
    };
    let (px, pw, py) = (x.pointer(), w.pointer(), y.pointer());
    // The second call uses the plan, or the error, that the first one cached.
    let [first, second] = [(); 2].map(|()| {
        // SAFETY: the blocks have the shapes' sizes, and live until the download has waited for the stream.
        unsafe { dnn.forward_with_sums(s, dtype, options, px, pw, (py, sums), None, workspace) }
    });
    assert_eq!(first.is_ok(), second.is_ok(), "{first:?}, then {second:?}");
    second?;
    let read = |block, dtype| from_bytes(&device.download(block), dtype);
    Ok(FusedResult {
        result: read(&y, dtype),
        sums: read(&sum, DType::F32),
        squares: read(&squares, DType::F32),
    })
}

#[test]
fn fused_statistics_match_the_output() {
    let tf32 = ConvEngineOptions { tf32: true, ..OPTIONS };
    let odd = ConvShape { c_in: 3, c_out: 5, stride: [2, 2], ..WHOLE };
    for s in [WHOLE, odd, ConvShape { groups: 2, ..WHOLE }] {
        for (dtype, options) in [(DType::F16, OPTIONS), (DType::BF16, OPTIONS), (DType::F32, tf32)] {
            let got = run(&s, dtype, options).unwrap();
            let (want, scale) = reference(ConvKind::Forward, &s, &operands(&s, dtype));
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
    for (dtype, overwriting) in [(DType::F16, 2), (DType::BF16, 103)] {
        plant_engine(overwriting, 50.0, EngineFault::None).unwrap();
        let got = run(&WHOLE, dtype, options).unwrap();
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
fn statistics_in_strict_f32_are_unsupported() {
    // A run-time-compiled engine may round to TF32.
    let error = run(&WHOLE, DType::F32, OPTIONS).err();
    assert!(matches!(error, Some(LibraryError::Unsupported { .. })), "{error:?}");
}
