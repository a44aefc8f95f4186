//! Memory of a network's training steps on one side, in a separate process.
//!
//!     step_memory SIDE NETWORK[/bf16] [STEPS]
//!
//! SIDE is `fornax`, or `libtorch-nhwc` or `libtorch-nchw` with the feature `libtorch`. NETWORK ends in `/bf16` for steps in mixed precision.
//! STEPS defaults to 10. Prints one JSON line: peak memory after all steps, and page faults and growth per step after three warm-up steps.
use fornax_benches::fornax;
use fornax_benches::machine::{memory, page_faults, peak_memory};
use fornax_benches::networks::Network;
use fornax_engine::DType;

/// Warm-up steps, which fill memory pools and allocate momentum.
const WARM_UP: u64 = 3;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (side, network, steps) = match args.as_slice() {
        [side, network] => (side, network, 10),
        [side, network, steps] => (side, network, steps.parse().unwrap_or_else(|_| usage())),
        _ => usage(),
    };
    let (name, dtype) = match network.strip_suffix("/bf16") {
        Some(name) => (name, DType::BF16),
        None => (network.as_str(), DType::F32),
    };
    let built = Network::ALL.into_iter().find(|n| n.name() == name).unwrap_or_else(|| usage());
    let mut step = side_of(side, built, dtype);
    for _ in 0..WARM_UP {
        step();
    }
    let (start_faults, start_memory) = (page_faults(), memory());
    let mut loss = f64::NAN;
    for _ in 0..steps {
        loss = step();
    }
    let row = serde_json::json!({
        "side": side,
        "network": network,
        "steps": steps,
        "peak_bytes": peak_memory(),
        "page_faults_per_step": (page_faults() - start_faults) as f64 / steps as f64,
        "growth_bytes_per_step": (memory() as f64 - start_memory as f64) / steps as f64,
        "loss": loss,
    });
    println!("{row}");
}

/// Function that runs a training step of a side and returns the loss.
fn side_of(side: &str, network: Network, dtype: DType) -> Box<dyn FnMut() -> f64> {
    match side {
        "fornax" => {
            let mut step = fornax::TrainingStep::new(network, dtype);
            Box::new(move || step.run())
        }
        #[cfg(feature = "libtorch")]
        "libtorch-nhwc" | "libtorch-nchw" => {
            use fornax_benches::libtorch::{Layout, TrainingStep};
            let layout = if side == "libtorch-nhwc" { Layout::ChannelsLast } else { Layout::ChannelsFirst };
            let mut step = TrainingStep::new(network, layout, dtype);
            Box::new(move || step.run())
        }
        _ => usage(),
    }
}

fn usage() -> ! {
    let names = Network::ALL.map(Network::name).join(" | ");
    eprintln!(
        "usage: step_memory fornax|libtorch-nhwc|libtorch-nchw NETWORK[/bf16] [STEPS]\nNETWORK: {names}"
    );
    std::process::exit(2);
}
