//! `gpu_rows DEVICE [--smoke] [PATTERN]`: measures the GPU rows whose name contains PATTERN and prints a JSON line for each variant. DEVICE
//! is cuda, cuda:N or emulated.
use fornax::device::DeviceSpec;
use fornax::train_step::CudaGraphMode;
use fornax_benches::gpu::steps::TrainingStep;
use fornax_benches::gpu::{ProblemSize, measure, operations};
use fornax_benches::networks::Network;
use fornax_engine::{DType, Device};
use serde_json::json;
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let smoke = arguments.iter().position(|a| a == "--smoke").map(|at| arguments.remove(at)).is_some();
    let size = if smoke { ProblemSize::Smoke } else { ProblemSize::Full };
    let (device, pattern) = match &arguments[..] {
        [device] => (device, ""),
        [device, pattern] => (device, pattern.as_str()),
        _ => return Err("usage: gpu_rows DEVICE [--smoke] [PATTERN]".into()),
    };
    let device = device.parse::<DeviceSpec>()?.open()?;
    for mut row in operations::rows(&device, size)? {
        if !row.name.contains(pattern) {
            continue;
        }
        let times = measure(&mut row, &device, true, size)?;
        for ((variant, _), seconds) in row.variants.iter().zip(times) {
            let variant = format!("fornax-{variant}");
            let line = json!({ "row": row.name, "variant": variant, "seconds": seconds, "bytes": row.bytes });
            println!("{line}");
        }
    }
    for network in [Network::Resnet50, Network::Resnet18Cifar] {
        for half in [Some(DType::F16), Some(DType::BF16)] {
            let name =
                format!("step/{}/{}", network.name(), half.map_or("f32".into(), |half| half.to_string()));
            if name.contains(pattern) {
                step(network, half, &name, &device, size)?;
            }
        }
    }
    Ok(())
}

/// Measures a training step without and with a CUDA graph.
fn step(
    network: Network,
    half: Option<DType>,
    name: &str,
    device: &Device,
    size: ProblemSize,
) -> Outcome<()> {
    for (variant, graph) in [("fornax-eager", CudaGraphMode::Never), ("fornax-graph", CudaGraphMode::Always)]
    {
        let mut step = TrainingStep::new(network, half, graph, device, size)?;
        // The second run captures the graph.
        let first = (0..3).try_fold(f64::NAN, |_, _| step.run())?;
        let runs = if size == ProblemSize::Full { 20 } else { 1 };
        let mut rounds = vec![];
        let mut last = first;
        for _ in 0..if size == ProblemSize::Full { 5 } else { 1 } {
            let started = Instant::now();
            for _ in 0..runs {
                last = step.run()?;
            }
            rounds.push(started.elapsed().as_secs_f64() / f64::from(runs));
        }
        rounds.sort_by(f64::total_cmp);
        let line = json!({
            "row": name,
            "variant": variant,
            "seconds": rounds[rounds.len() / 2],
            "items": step.images(),
            "losses": [first, last],
        });
        println!("{line}");
    }
    Ok(())
}
