//! `gpu_rows DEVICE [--smoke] [PATTERN]`: measures the GPU's rows whose name contains the pattern, one JSON line each. DEVICE is cuda,
//! cuda:N or emulated.
use fornax::device::DeviceSpec;
use fornax::train_step::CudaGraphMode;
use fornax_benches::gpu::steps::TrainingStep;
use fornax_benches::gpu::{Scale, measure, operations};
use fornax_benches::networks::Network;
use fornax_engine::{DType, Device};
use serde_json::json;
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let smoke = arguments.iter().position(|a| a == "--smoke").map(|at| arguments.remove(at)).is_some();
    let scale = if smoke { Scale::Smoke } else { Scale::Full };
    let (device, pattern) = match &arguments[..] {
        [device] => (device, ""),
        [device, pattern] => (device, pattern.as_str()),
        _ => return Err("usage: gpu_rows DEVICE [--smoke] [PATTERN]".into()),
    };
    let device = device.parse::<DeviceSpec>()?.open()?;
    for mut row in operations::rows(&device, scale)? {
        if !row.name.contains(pattern) {
            continue;
        }
        let times = measure(&mut row, &device, true, scale)?;
        for ((way, _), seconds) in row.ways.iter().zip(times) {
            let line = json!({ "row": row.name, "way": format!("fornax-{way}"), "seconds": seconds, "bytes": row.bytes });
            println!("{line}");
        }
    }
    for network in [Network::Resnet50, Network::Resnet18Cifar] {
        for half in [Some(DType::F16), Some(DType::BF16)] {
            let name =
                format!("step/{}/{}", network.name(), half.map_or("f32".into(), |half| half.to_string()));
            if name.contains(pattern) {
                step(network, half, &name, &device, scale)?;
            }
        }
    }
    Ok(())
}

/// A training step run one by one, and replayed as a graph.
fn step(network: Network, half: Option<DType>, name: &str, device: &Device, scale: Scale) -> Outcome<()> {
    for (way, graph) in [("fornax-eager", CudaGraphMode::Never), ("fornax-graph", CudaGraphMode::Always)] {
        let mut step = TrainingStep::new(network, half, graph, device, scale)?;
        // The second run records the graph.
        let first = (0..3).try_fold(f64::NAN, |_, _| step.run())?;
        let runs = if scale == Scale::Full { 20 } else { 1 };
        let mut rounds = vec![];
        let mut last = first;
        for _ in 0..if scale == Scale::Full { 5 } else { 1 } {
            let started = Instant::now();
            for _ in 0..runs {
                last = step.run()?;
            }
            rounds.push(started.elapsed().as_secs_f64() / f64::from(runs));
        }
        rounds.sort_by(f64::total_cmp);
        let line = json!({
            "row": name,
            "way": way,
            "seconds": rounds[rounds.len() / 2],
            "items": step.images(),
            "losses": [first, last],
        });
        println!("{line}");
    }
    Ok(())
}
