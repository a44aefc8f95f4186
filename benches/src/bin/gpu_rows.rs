//! Measures GPU rows and prints JSON lines.
//!
//! ```text
//! gpu_rows DEVICE [--smoke] [--after ROW] [PATTERN…]       measure the rows whose name contains a PATTERN, by default all
//! gpu_rows DEVICE [--smoke] --launches ROW                 time each launch of one eager training step by events
//! gpu_rows DEVICE [--smoke] --profiled-step ROW            run one eager training step in a profiler's range
//! gpu_rows DEVICE [--smoke] --repeats                      repeat the convolutions that cuDNN fuses with sums, and compare the bits
//! gpu_rows emulated [--smoke] --counted-launches ROW       count the bytes that each launch of a training step moves
//! gpu_rows emulated [--smoke] --host-time ROW              time a training step with empty kernels: the work of the host alone
//! ```
//!
//! DEVICE is cuda, cuda:N or emulated. A line `{"start": ROW}` precedes each row, so that a run that crashed can continue after it with
//! `--after`, and a line of progress appears every 10 seconds. A step's row is its name and variant, such as `step/resnet50/f16 graph`; the
//! ROW of the other modes has no variant.
use fornax::device::DeviceSpec;
use fornax::train_step::CudaGraphMode;
use fornax_benches::gpu::launches::{Launch, counted_launches, timed_launches};
use fornax_benches::gpu::repeats::differing_repeats;
use fornax_benches::gpu::steps::{StepVariant, measure_step};
use fornax_benches::gpu::{ProblemSize, StepRow, convolutions, measure, median, operations};
use fornax_engine::Device;
use fornax_engine::cuda::cudnn::{ConvEngineOptions, ConvPlanChoice, plan_counts};
use fornax_engine::cuda::{ProfilerRange, conv_plan_record, launch_count, set_conv_engine_options};
use fornax_kernels::{compile_counts, emulator};
use fornax_tests::heartbeat;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "usage: gpu_rows DEVICE [--smoke] [--after ROW] [PATTERN…]\n       gpu_rows DEVICE [--smoke] --repeats\n       \
                     gpu_rows DEVICE [--smoke] --launches|--profiled-step|--counted-launches|--host-time ROW";

struct Arguments {
    device: Device,
    size: ProblemSize,
    after: Option<String>,
    mode: Mode,
    patterns: Vec<String>,
}

enum Mode {
    Measure,
    Launches,
    ProfiledStep,
    Repeats,
    CountedLaunches,
    HostTime,
}

fn main() -> Outcome<()> {
    let arguments = parse()?;
    heartbeat::start(arguments.device);
    match arguments.mode {
        Mode::Measure => measure_rows(&arguments)?,
        Mode::Launches => {
            use_benchmarked_plans(&arguments)?;
            print_launches(&arguments, timed_launches(&step_row(&arguments)?, &arguments.device)?);
        }
        Mode::ProfiledStep => profiled_step(&arguments)?,
        Mode::Repeats => repeats(&arguments)?,
        Mode::CountedLaunches => {
            print_launches(&arguments, counted_launches(&step_row(&arguments)?, &arguments.device)?);
        }
        Mode::HostTime => host_time(&arguments)?,
    }
    let (images, plans) = (compile_counts(), plan_counts());
    println!(
        "{}",
        json!({
            "caches": { "kernels_compiled": images.compiled, "kernels_cached": images.cached, "plans_ran": plans.ran,
                "plans_restored": plans.restored, "plans_rejected": plans.rejected }
        })
    );
    Ok(())
}

fn measure_rows(arguments: &Arguments) -> Outcome<()> {
    let mut skipping = arguments.after.is_some();
    let mut is_next = |name: &str| {
        let is_wanted = arguments.patterns.iter().any(|pattern| name.contains(pattern));
        let run = !skipping && (is_wanted || arguments.patterns.is_empty());
        skipping &= arguments.after.as_deref() != Some(name);
        if run {
            println!("{}", json!({ "start": name }));
        }
        run
    };
    let (device, size) = (&arguments.device, arguments.size);
    use_benchmarked_plans(arguments)?;
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
    for (row, variant) in steps(size) {
        let name = row.name();
        if is_next(&format!("{name} {}", variant.name())) {
            let line = match measure_step(&row, variant, device, size) {
                Ok(step) => json!({
                    "row": name,
                    "variant": format!("fornax-{}", variant.name()),
                    "seconds": step.seconds,
                    "items": row.images,
                    "losses": step.losses,
                }),
                Err(e) => json!({ "row": name, "error": e.to_string() }),
            };
            println!("{line}");
        }
    }
    Ok(())
}

fn use_benchmarked_plans(arguments: &Arguments) -> Outcome<()> {
    let choice = ConvPlanChoice::Benchmark(arguments.size.conv_benchmark());
    set_conv_engine_options(
        &arguments.device,
        ConvEngineOptions { tf32: false, deterministic: true, choice },
    )?;
    Ok(())
}

/// The convolution plans that the device has chosen by timing, by problem.
fn chosen_plans(device: &Device) -> Outcome<BTreeMap<String, String>> {
    Ok(conv_plan_record(device)?.map(|record| record.choices).unwrap_or_default())
}

/// The training steps: half precision in every variant, and eager in f32 as the reference of the losses.
fn steps(size: ProblemSize) -> Vec<(StepRow, StepVariant)> {
    let variants = |row: StepRow| {
        let all = StepVariant::ALL.into_iter().filter(|v| row.half.is_some() || *v == StepVariant::Eager);
        all.map(|variant| (row, variant)).collect::<Vec<_>>()
    };
    StepRow::all(size).into_iter().flat_map(variants).collect()
}

/// The step's row that the arguments name.
fn step_row(arguments: &Arguments) -> Outcome<StepRow> {
    let is_wanted = |row: &StepRow| arguments.patterns == [row.name()];
    StepRow::all(arguments.size).into_iter().find(is_wanted).ok_or("there is no such training step".into())
}

fn print_launches(arguments: &Arguments, launches: Vec<Launch>) {
    for (i, Launch { name, seconds, bytes }) in launches.into_iter().enumerate() {
        let row = &arguments.patterns[0];
        let mut line = json!({ "row": row, "launch": i, "kernel": name, "seconds": seconds });
        if let Some(bytes) = bytes {
            line["bytes"] = Value::from(bytes);
        }
        println!("{line}");
    }
}

fn profiled_step(arguments: &Arguments) -> Outcome<()> {
    use_benchmarked_plans(arguments)?;
    let device = &arguments.device;
    let (mut step, batch) = step_row(arguments)?.create(CudaGraphMode::Never, device)?;
    // The first steps compile kernels and plan convolutions.
    (0..2).try_for_each(|_| step.run(&batch).map(drop))?;
    let _range = ProfilerRange::start(device)?;
    step.run(&batch)?;
    Ok(())
}

fn repeats(arguments: &Arguments) -> Outcome<()> {
    // Fused without a comparison of times with separate operations.
    let choice = ConvPlanChoice::Stored;
    set_conv_engine_options(
        &arguments.device,
        ConvEngineOptions { tf32: false, deterministic: true, choice },
    )?;
    for (name, differing) in differing_repeats(&arguments.device, arguments.size) {
        let line = match differing {
            Ok(differing) => json!({ "row": name, "differing": differing }),
            Err(e) => json!({ "row": name, "error": e.to_string() }),
        };
        println!("{line}");
    }
    Ok(())
}

/// Milliseconds of a training step on the host, eager and replayed, by steps whose kernels are empty.
fn host_time(arguments: &Arguments) -> Outcome<()> {
    let row = step_row(arguments)?;
    for (variant, graph) in [("eager", CudaGraphMode::Never), ("graph", CudaGraphMode::Always)] {
        let (mut step, batch) = StepRow { images: 2, side: 32, ..row }.create(graph, &arguments.device)?;
        emulator::set_empty_kernels(true)?;
        // The first steps compile kernels, plan convolutions and capture the graph.
        (0..3).try_for_each(|_| step.run(&batch).map(drop))?;
        let rounds = arguments.size.pick(50, 3);
        let before = launch_count(arguments.device);
        let mut seconds = vec![];
        for _ in 0..rounds {
            let started = Instant::now();
            step.run(&batch)?;
            seconds.push(started.elapsed().as_secs_f64());
        }
        let launches = (launch_count(arguments.device) - before) / rounds as u64;
        emulator::set_empty_kernels(false)?;
        let (row, variant) = (row.name(), format!("host-{variant}"));
        let line =
            json!({ "row": row, "variant": variant, "seconds": median(seconds), "launches": launches });
        println!("{line}");
    }
    Ok(())
}

fn parse() -> Outcome<Arguments> {
    let mut words = std::env::args().skip(1);
    let device = words.next().ok_or(USAGE)?.parse::<DeviceSpec>()?.open()?;
    let mut arguments =
        Arguments { device, size: ProblemSize::Full, after: None, mode: Mode::Measure, patterns: vec![] };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--smoke" => arguments.size = ProblemSize::Smoke,
            "--launches" => arguments.mode = Mode::Launches,
            "--profiled-step" => arguments.mode = Mode::ProfiledStep,
            "--repeats" => arguments.mode = Mode::Repeats,
            "--counted-launches" => arguments.mode = Mode::CountedLaunches,
            "--host-time" => arguments.mode = Mode::HostTime,
            "--after" => arguments.after = Some(words.next().ok_or(USAGE)?),
            _ if word.starts_with("--") => return Err(USAGE.into()),
            _ => arguments.patterns.push(word),
        }
    }
    Ok(arguments)
}
