//! Convolution plans that are chosen by timing, on emulated devices whose engines have planted times and faults.
use fornax_engine::cuda::cudnn::{ConvBenchmark, ConvEngineOptions, ConvPlanChoice, ConvPlanRecord};
use fornax_engine::cuda::{conv_plan_record, restore_conv_plans, set_conv_engine_options};
use fornax_engine::{Activation, BatchNorm, Conv2dOptions, ConvAlgorithm, DType, Device, Result, Tensor};
use fornax_kernels::emulator::{EngineFault, compile_seconds, plant_engine};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Deterministic engines of the emulated cuDNN for convolutions in strict f32; the last bits of their results differ.
const ENGINES: [i64; 2] = [0, 1];
/// Engines for f16 convolutions with statistics. Ten configurations of the first one precede those of the second, which adds to its sums.
const FUSED: [i64; 2] = [2, 3];
/// Slower than everything that has no planted time.
const SLOW_MS: f64 = 50.0;

/// Two devices, of which each makes its own choices, as two processes do. Engines are planted in both, so one test runs at a time.
struct Devices {
    _one_at_a_time: MutexGuard<'static, ()>,
    devices: [Device; 2],
}

const UNCACHED: ConvBenchmark =
    ConvBenchmark { candidates: 10, fused_candidates: 4, workspace: 1 << 30, disk_cache: false };

impl Devices {
    fn open() -> Devices {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        Device::emulated(2).expect("g++ is installed");
        let devices = [Device::Cuda(0), Device::Cuda(1)];
        for device in &devices {
            set_choice(device, ConvPlanChoice::Benchmark(UNCACHED));
        }
        Devices { _one_at_a_time: guard, devices }
    }

    /// Removes planted times and faults.
    fn plant_nothing() {
        for engine in ENGINES.into_iter().chain(FUSED) {
            plant(engine, 0.0, EngineFault::None);
        }
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        Devices::plant_nothing();
    }
}

fn plant(engine: i64, milliseconds: f64, fault: EngineFault) {
    plant_engine(engine, milliseconds, fault).expect("the emulated device is loaded");
}

/// Makes one of two engines the fastest.
fn prefer(engine: i64, of: [i64; 2]) {
    for other in of {
        plant(other, if other == engine { 0.0 } else { SLOW_MS }, EngineFault::None);
    }
}

/// Pseudo-random numbers in -1..1.
fn random(shape: &[usize], seed: usize, dtype: DType, device: &Device) -> Tensor {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 1013) as f32 / 506.0 - 1.0;
    let host = Tensor::from_vec((0..shape.iter().product()).map(value).collect(), shape).expect("memory");
    host.to_dtype(dtype).and_then(|t| t.to_device(device)).expect("memory")
}

fn bits(t: &Tensor) -> Vec<u32> {
    let host = t.to_device(&Device::Cpu).and_then(|t| t.to_dtype(DType::F32)).expect("a copy");
    host.to_vec::<f32>().expect("f32").into_iter().map(f32::to_bits).collect()
}

const SAME: Conv2dOptions = Conv2dOptions {
    stride: [1, 1],
    padding: [1, 1],
    dilation: [1, 1],
    groups: 1,
    algorithm: ConvAlgorithm::Auto,
};

fn set_choice(device: &Device, choice: ConvPlanChoice) {
    let options = ConvEngineOptions { tf32: false, deterministic: true, choice };
    set_conv_engine_options(device, options).expect("a device");
}

/// A convolution in f32 of images of `size`×`size` pixels, which distinguishes the problems of tests.
fn convolve(size: usize, device: &Device) -> Result<Vec<u32>> {
    let x = random(&[2, size, size, 24], 1, DType::F32, device);
    let weight = random(&[16, 3, 3, 24], 2, DType::F32, device);
    x.conv2d(&weight, None, &SAME).map(|y| bits(&y))
}

/// Output and running statistics of a convolution with batch norm in f16, as one operation or as two.
fn convolve_and_normalise(size: usize, fused: bool, device: &Device) -> Result<[Vec<u32>; 3]> {
    let x = random(&[2, size, size, 8], 1, DType::F16, device);
    let weight = random(&[16, 3, 3, 8], 2, DType::F16, device);
    let running = [0, 1].map(|seed| random(&[16], seed, DType::F32, device));
    let norm = BatchNorm {
        running: Some((&running[0], &running[1])),
        training: true,
        momentum: 0.1,
        eps: 1e-5,
        ..BatchNorm::default()
    };
    let y = match fused {
        true => x.conv2d_batch_norm_act(&weight, &SAME, &norm, Activation::Relu, None)?,
        false => x.conv2d(&weight, None, &SAME)?.batch_norm_act(&norm, Activation::Relu, None)?,
    };
    Ok([&y, &running[0], &running[1]].map(bits))
}

fn record(device: &Device) -> ConvPlanRecord {
    conv_plan_record(device).expect("a device").expect("cuDNN was used")
}

/// The choices for problems with images of `size`×`size` pixels, by problem.
fn choices(size: usize, device: &Device) -> Vec<(String, String)> {
    let part = format!("h: {size}, w: {size},");
    record(device).choices.into_iter().filter(|(problem, _)| problem.contains(&part)).collect()
}

#[test]
fn fastest_engine_is_chosen_and_computes_the_first_result_too() {
    let opened = Devices::open();
    let results = [0, 1].map(|engine| {
        prefer(engine, ENGINES);
        let device = &opened.devices[engine as usize];
        let first = convolve(7, device).expect("runs");
        assert_eq!(convolve(7, device).expect("runs"), first);
        let chosen = choices(7, device);
        assert_eq!(chosen.len(), 1);
        assert!(chosen[0].1.starts_with(&format!("{{\"engine\":{engine},")), "{}", chosen[0].1);
        first
    });
    assert_ne!(results[0], results[1], "the engines' results differ in the last bits");
}

#[test]
fn restored_choices_win_over_timing() {
    let opened = Devices::open();
    let [first, second] = &opened.devices;
    prefer(1, ENGINES);
    let expected = convolve(8, first).expect("runs");
    prefer(0, ENGINES);
    let foreign = ConvPlanRecord { gpu: "another GPU".into(), ..record(first) };
    assert!(!restore_conv_plans(second, &foreign).expect("a device"));
    let other = ConvPlanRecord { cudnn: record(first).cudnn + 1, ..record(first) };
    assert!(!restore_conv_plans(second, &other).expect("a device"));
    assert!(restore_conv_plans(second, &record(first)).expect("a device"));
    assert_eq!(convolve(8, second).expect("runs"), expected);
    // Without a restored choice the second device prefers the other engine.
    convolve(9, second).expect("runs");
    assert!(choices(9, second)[0].1.starts_with("{\"engine\":0,"));
}

#[test]
fn restored_choices_replace_plans_in_use() {
    let opened = Devices::open();
    let [first, second] = &opened.devices;
    prefer(1, ENGINES);
    let expected = convolve(21, first).expect("runs");
    prefer(0, ENGINES);
    assert_ne!(convolve(21, second).expect("runs"), expected, "the engines' results differ in the last bits");
    assert!(restore_conv_plans(second, &record(first)).expect("a device"));
    assert_eq!(convolve(21, second).expect("runs"), expected);
    assert_eq!(choices(21, second), choices(21, first));
}

#[test]
fn restored_plan_that_does_not_build_is_an_error() {
    let opened = Devices::open();
    let [first, second] = &opened.devices;
    convolve(10, first).expect("runs");
    let mut record = record(first);
    record.choices.values_mut().for_each(|choice| *choice = choice.replace("\"engine\"", "\"motor\""));
    assert!(restore_conv_plans(second, &record).expect("a device"));
    let error = convolve(10, second).expect_err("cannot be read").to_string();
    assert!(error.contains("the restored plan of convolution forward"), "{error}");
}

#[test]
fn engine_that_does_not_build_or_run_is_skipped() {
    let opened = Devices::open();
    for (size, fault) in [
        (11, EngineFault::BuildFails),
        (12, EngineFault::UnsupportedAtExecution),
        (13, EngineFault::ExecutionFails),
    ] {
        plant(0, 0.0, fault);
        convolve(size, &opened.devices[0]).expect("the other engine runs");
        assert!(choices(size, &opened.devices[0])[0].1.starts_with("{\"engine\":1,"), "{fault:?}");
    }
}

#[test]
fn convolution_that_every_engine_rejects_uses_the_implicit_gemm() {
    let opened = Devices::open();
    let device = &opened.devices[0];
    let on_cpu = convolve(19, &Device::Cpu).expect("runs");
    for (choice, faults) in [
        (ConvPlanChoice::Heuristic, [EngineFault::ExecutionFails; 2]),
        (ConvPlanChoice::Heuristic, [EngineFault::BuildFails, EngineFault::UnsupportedAtExecution]),
        (ConvPlanChoice::Benchmark(UNCACHED), [EngineFault::ExecutionFails; 2]),
    ] {
        set_choice(device, choice);
        ENGINES.into_iter().zip(faults).for_each(|(engine, fault)| plant(engine, 0.0, fault));
        // The second call repeats the choice.
        for _ in 0..2 {
            let y = convolve(19, device).expect("the implicit GEMM computes it");
            for (y, want) in y.iter().zip(&on_cpu).map(|(a, b)| (f32::from_bits(*a), f32::from_bits(*b))) {
                assert!((y - want).abs() <= 1e-4, "{y}, not {want}");
            }
        }
    }
    assert_eq!(choices(19, device)[0].1, "fallback");
}

#[test]
fn engine_that_fails_after_it_was_chosen_is_replaced_by_the_implicit_gemm() {
    let opened = Devices::open();
    let device = &opened.devices[0];
    convolve(22, device).expect("runs");
    ENGINES.into_iter().for_each(|engine| plant(engine, 0.0, EngineFault::ExecutionFails));
    let on_cpu = convolve(22, &Device::Cpu).expect("runs");
    let y = convolve(22, device).expect("the implicit GEMM computes it");
    for (y, want) in y.iter().zip(&on_cpu).map(|(a, b)| (f32::from_bits(*a), f32::from_bits(*b))) {
        assert!((y - want).abs() <= 1e-4, "{y}, not {want}");
    }
}

#[test]
fn fault_of_a_candidate_is_an_error_and_not_a_choice() {
    let opened = Devices::open();
    let device = &opened.devices[0];
    plant(1, 0.0, EngineFault::IllegalAddress);
    plant(FUSED[1], 0.0, EngineFault::IllegalAddress);
    let errors = [
        convolve(14, device).expect_err("a fault").to_string(),
        convolve_and_normalise(14, true, device).expect_err("a fault").to_string(),
    ];
    for error in errors {
        assert!(error.contains("accessed an illegal address"), "{error}");
    }
    assert_eq!(choices(14, device), []);
    plant(1, 0.0, EngineFault::None);
    plant(FUSED[1], 0.0, EngineFault::None);
    convolve(14, device).expect("runs without the fault");
    convolve_and_normalise(14, true, device).expect("runs without the fault");
    // In f32, in f16 with statistics, and in f16 without.
    assert_eq!(choices(14, device).len(), 3);
}

#[test]
fn heuristic_plan_that_fails_at_execution_is_skipped_but_a_fault_is_an_error() {
    let opened = Devices::open();
    let device = &opened.devices[0];
    set_choice(device, ConvPlanChoice::Heuristic);
    plant(FUSED[0], 0.0, EngineFault::ExecutionFails);
    convolve_and_normalise(15, true, device).expect("the other engine runs");
    plant(FUSED[0], 0.0, EngineFault::IllegalAddress);
    let error = convolve_and_normalise(20, true, device).expect_err("a fault").to_string();
    assert!(error.contains("accessed an illegal address"), "{error}");
}

#[test]
fn fusion_is_used_where_it_is_faster_than_separate_operations() {
    let opened = Devices::open();
    let [first, second] = &opened.devices;
    // The statistics pass takes emulated time, so the fusion is faster.
    convolve_and_normalise(16, true, first).expect("runs");
    assert!(choices(16, first).iter().any(|(_, choice)| choice.starts_with("{\"engine\":2,")));
    for engine in FUSED {
        plant(engine, SLOW_MS, EngineFault::None);
    }
    let separate = convolve_and_normalise(17, false, first).expect("runs");
    assert_eq!(convolve_and_normalise(17, true, first).expect("runs"), separate);
    assert_eq!(convolve_and_normalise(17, true, first).expect("runs"), separate);
    assert!(choices(17, first).iter().any(|(_, choice)| choice == "fallback"));
    // The choice is restored too.
    Devices::plant_nothing();
    assert!(restore_conv_plans(second, &record(first)).expect("a device"));
    assert_eq!(convolve_and_normalise(17, true, second).expect("runs"), separate);
}

#[test]
fn heuristics_use_a_fusion_only_where_it_is_faster_than_separate_operations() {
    let opened = Devices::open();
    let [first, second] = &opened.devices;
    opened.devices.iter().for_each(|device| set_choice(device, ConvPlanChoice::Heuristic));
    convolve_and_normalise(23, true, first).expect("runs");
    assert!(choices(23, first)[0].1.starts_with("{\"engine\":2,"), "{:?}", choices(23, first));
    FUSED.into_iter().for_each(|engine| plant(engine, SLOW_MS, EngineFault::None));
    let separate = convolve_and_normalise(24, false, first).expect("runs");
    assert_eq!(convolve_and_normalise(24, true, first).expect("runs"), separate);
    assert_eq!(choices(24, first)[0].1, "fallback");
    // A resumed run repeats the choice.
    Devices::plant_nothing();
    assert!(restore_conv_plans(second, &record(first)).expect("a device"));
    assert_eq!(convolve_and_normalise(24, true, second).expect("runs"), separate);
}

#[test]
fn stored_choices_are_used_and_nothing_is_timed() {
    let opened = Devices::open();
    let [first, second] = &opened.devices;
    prefer(1, ENGINES);
    let chosen = convolve(25, first).expect("runs");
    set_choice(first, ConvPlanChoice::Stored);
    assert_eq!(convolve(25, first).expect("runs"), chosen, "the plan that timing chose");
    // Another shape: the first engine of the heuristics, although it is slow.
    let other = convolve(26, first).expect("runs");
    set_choice(second, ConvPlanChoice::Heuristic);
    assert_eq!(convolve(26, second).expect("runs"), other);
    assert_eq!(choices(26, first), []);
    // Fusions are not compared with separate operations.
    FUSED.into_iter().for_each(|engine| plant(engine, SLOW_MS, EngineFault::None));
    convolve_and_normalise(27, true, first).expect("runs");
    assert_eq!(choices(27, first), []);
}

#[test]
fn candidates_of_a_fusion_compile_within_the_budget_and_stored_plans_compile_nothing() {
    let opened = Devices::open();
    let [first, second] = &opened.devices;
    let before = compile_seconds();
    convolve_and_normalise(28, true, first).expect("runs");
    // Two of the four candidates, one after another by engine, are compiled.
    assert!((3.0..=4.0).contains(&(compile_seconds() - before)), "{}", compile_seconds() - before);
    let before = compile_seconds();
    assert!(restore_conv_plans(second, &record(first)).expect("a device"));
    convolve_and_normalise(28, true, second).expect("runs");
    assert_eq!(compile_seconds(), before);
}

#[test]
fn sums_of_an_engine_that_accumulates_are_right() {
    let opened = Devices::open();
    let device = &opened.devices[0];
    prefer(FUSED[1], FUSED);
    let separate = convolve_and_normalise(18, false, device).expect("runs");
    // The first use probes the engine, the second one runs the plan.
    for _ in 0..2 {
        let fused = convolve_and_normalise(18, true, device).expect("runs");
        for (a, b) in fused.iter().flatten().zip(separate.iter().flatten()) {
            let (a, b) = (f32::from_bits(*a), f32::from_bits(*b));
            assert!((a - b).abs() <= 2e-3 * b.abs().max(1.0), "{a}, not {b}");
        }
    }
    assert!(choices(18, device).iter().any(|(_, choice)| choice.starts_with("{\"engine\":3,")));
}
