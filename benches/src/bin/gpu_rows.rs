//! Measures GPU rows and prints one JSON line for each variant.
//!
//! ```text
//! gpu_rows DEVICE [--smoke] [--operations] [--after ROW] [PATTERN]   measure the rows whose name contains PATTERN
//! gpu_rows DEVICE [--smoke] --profiled-step ROW                      run one eager training step in a profiler's range
//! gpu_rows DEVICE [--smoke] --kernel-times ROW                       time the kernels of one eager training step by events
//! gpu_rows emulated [--smoke] --host-time ROW                        time a training step with empty kernels: the work of the host alone
//! ```
//!
//! DEVICE is cuda, cuda:N or emulated. A line `{"start": ROW}` precedes each row, so that a run that crashed can continue after it with
//! `--after`. `--operations` leaves the training steps out.
use fornax::device::DeviceSpec;
use fornax::train_step::CudaGraphMode;
use fornax_benches::gpu::steps::{StepVariant, TrainingStep, measure_step};
use fornax_benches::gpu::{ProblemSize, convolutions, measure, median, operations};
use fornax_benches::networks::Network;
use fornax_engine::cuda::cudnn::{ConvEngineOptions, ConvPlanChoice};
use fornax_engine::cuda::{
    KernelProfile, KernelTime, ProfilerRange, conv_plan_record, launch_count, set_conv_engine_options,
};
use fornax_engine::{DType, Device};
use fornax_kernels::emulator;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "usage: gpu_rows DEVICE [--smoke] [--operations] [--after ROW] [--profiled-step] [--kernel-times] [--host-time] [PATTERN]";

struct Arguments {
    device: Device,
    size: ProblemSize,
    steps: bool,
    after: Option<String>,
    mode: Mode,
    pattern: String,
}

#[derive(PartialEq)]
enum Mode {
    Measure,
    ProfiledStep,
    KernelTimes,
    HostTime,
}

fn main() -> Outcome<()> {
    let arguments = parse()?;
    match arguments.mode {
        Mode::Measure => measure_rows(&arguments),
        Mode::HostTime => host_time(&arguments),
        Mode::ProfiledStep | Mode::KernelTimes => run_one_step(&arguments),
    }
}

fn measure_rows(arguments: &Arguments) -> Outcome<()> {
    let mut skipping = arguments.after.is_some();
    let mut is_next = |name: &str| {
        let run = !skipping && name.contains(&arguments.pattern);
        skipping &= arguments.after.as_deref() != Some(name);
        if run {
            println!("{}", json!({ "start": name }));
        }
        run
    };
    let (device, size) = (&arguments.device, arguments.size);
    let plans = ConvPlanChoice::Benchmark(size.conv_benchmark());
    set_conv_engine_options(device, ConvEngineOptions { tf32: false, deterministic: true, choice: plans })?;
    for row in operations::rows(size).into_iter().chain(convolutions::rows(size)) {
        if is_next(&row.name) {
            let (name, bytes) = (row.name.clone(), row.bytes);
            let before = chosen_plans(device)?;
            match measure(row, device, size) {
                Ok(times) => {
                    // A plan that an earlier row chose is in that row's line.
                    let mut plans = chosen_plans(device)?;
                    plans.retain(|problem, _| !before.contains_key(problem));
                    for (variant, seconds) in times {
                        let variant = format!("fornax-{variant}");
                        let line = json!({ "row": name, "variant": variant, "seconds": seconds, "bytes": bytes, "plans": plans });
                        println!("{line}");
                    }
                }
                Err(e) => println!("{}", json!({ "row": name, "error": e.to_string() })),
            }
        }
    }
    if !arguments.steps {
        return Ok(());
    }
    for (network, half, variant) in steps(size) {
        let row = row_name(network, half);
        if is_next(&format!("{row} {}", variant.name())) {
            let line = match measure_step(network, half, variant, device, size) {
                Ok(step) => json!({
                    "row": row,
                    "variant": format!("fornax-{}", variant.name()),
                    "seconds": step.seconds,
                    "items": step.images,
                    "losses": step.losses,
                }),
                Err(e) => json!({ "row": row, "error": e.to_string() }),
            };
            println!("{line}");
        }
    }
    Ok(())
}

/// The convolution plans that the device has chosen by timing, by problem.
fn chosen_plans(device: &Device) -> Outcome<BTreeMap<String, String>> {
    Ok(conv_plan_record(device)?.map(|record| record.choices).unwrap_or_default())
}

/// The training steps: each network in f16 and bf16 in every variant, and eager in f32 as the reference of the losses. In the smoke size
/// ResNet-50 would normalise over two values, so that rounding errors grow without bound.
fn steps(size: ProblemSize) -> Vec<(Network, Option<DType>, StepVariant)> {
    let mut steps = vec![];
    for network in [Network::Resnet50, Network::Resnet18Cifar].into_iter().skip(size.pick(0, 1)) {
        for half in [Some(DType::F16), Some(DType::BF16)] {
            steps.extend(StepVariant::ALL.map(|variant| (network, half, variant)));
        }
        steps.push((network, None, StepVariant::Eager));
    }
    steps
}

fn row_name(network: Network, half: Option<DType>) -> String {
    format!("step/{}/{}", network.name(), half.unwrap_or(DType::F32))
}

fn run_one_step(arguments: &Arguments) -> Outcome<()> {
    let is_wanted =
        |(network, half, _): &(Network, Option<DType>, _)| row_name(*network, *half) == arguments.pattern;
    let (network, half, _) =
        steps(ProblemSize::Full).into_iter().find(is_wanted).ok_or("there is no such training step")?;
    let device = &arguments.device;
    let plans = ConvPlanChoice::Benchmark(arguments.size.conv_benchmark());
    set_conv_engine_options(device, ConvEngineOptions { tf32: false, deterministic: true, choice: plans })?;
    let mut step = TrainingStep::new(network, half, CudaGraphMode::Never, device, arguments.size)?;
    // The first steps compile kernels and plan convolutions.
    (0..3).try_for_each(|_| step.run().map(drop))?;
    if arguments.mode == Mode::ProfiledStep {
        let _range = ProfilerRange::start(device)?;
        step.run()?;
        return Ok(());
    }
    let profile = KernelProfile::start(device)?;
    step.run()?;
    for KernelTime { name, launches, seconds } in profile.finish()? {
        let line =
            json!({ "row": arguments.pattern, "kernel": name, "launches": launches, "seconds": seconds });
        println!("{line}");
    }
    Ok(())
}

/// Milliseconds of a training step on the host, eager and replayed, by steps whose kernels are empty.
fn host_time(arguments: &Arguments) -> Outcome<()> {
    let is_wanted =
        |(network, half, _): &(Network, Option<DType>, _)| row_name(*network, *half) == arguments.pattern;
    let (network, half, _) =
        steps(ProblemSize::Full).into_iter().find(is_wanted).ok_or("there is no such training step")?;
    for (variant, graph) in [("eager", CudaGraphMode::Never), ("graph", CudaGraphMode::Always)] {
        let mut step = TrainingStep::new(network, half, graph, &arguments.device, ProblemSize::Smoke)?;
        emulator::set_empty_kernels(true)?;
        // The first steps compile kernels, plan convolutions and capture the graph.
        (0..3).try_for_each(|_| step.run().map(drop))?;
        let rounds = arguments.size.pick(50, 3);
        let before = launch_count(arguments.device);
        let mut seconds = vec![];
        for _ in 0..rounds {
            let started = Instant::now();
            step.run()?;
            seconds.push(started.elapsed().as_secs_f64());
        }
        let launches = (launch_count(arguments.device) - before) / rounds as u64;
        emulator::set_empty_kernels(false)?;
        let (row, variant) = (&arguments.pattern, format!("host-{variant}"));
        let line =
            json!({ "row": row, "variant": variant, "seconds": median(seconds), "launches": launches });
        println!("{line}");
    }
    Ok(())
}

fn parse() -> Outcome<Arguments> {
    let mut words = std::env::args().skip(1);
    let device = words.next().ok_or(USAGE)?.parse::<DeviceSpec>()?.open()?;
    let mut arguments = Arguments {
        device,
        size: ProblemSize::Full,
        steps: true,
        after: None,
        mode: Mode::Measure,
        pattern: String::new(),
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--smoke" => arguments.size = ProblemSize::Smoke,
            "--operations" => arguments.steps = false,
            "--profiled-step" => arguments.mode = Mode::ProfiledStep,
            "--kernel-times" => arguments.mode = Mode::KernelTimes,
            "--host-time" => arguments.mode = Mode::HostTime,
            "--after" => arguments.after = Some(words.next().ok_or(USAGE)?),
            _ if word.starts_with("--") => return Err(USAGE.into()),
            _ => arguments.pattern = word,
        }
    }
    Ok(arguments)
}
