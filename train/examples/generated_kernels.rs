//! Writes generated CUDA kernels to a folder: those of every optimizer, and of expressions of each kind:
//! `cargo run -p fornax --example generated_kernels -- FOLDER [OPTIMIZER…]`.
use fornax::optim::{OptimizerOptions, optimizer_names_with_lookahead, rule};
use fornax_engine::DType;
use fornax_engine::fuse::{self, Broadcast::*, expression, sigmoid};
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("pass the folder to write to")?);
    let chosen: Vec<String> = arguments.collect();
    let names = match chosen.is_empty() {
        true => optimizer_names_with_lookahead().collect(),
        false => chosen,
    };
    let options = OptimizerOptions { lr: Some(0.1), ..OptimizerOptions::default() };
    for name in names {
        let rule = rule(&name, &options)?.update;
        for (i, text) in rule.cuda_sources().iter().enumerate() {
            std::fs::write(folder.join(format!("{name}_{i}.cu")), text)?;
        }
    }
    let elementwise = expression(|[x]| x.silu());
    let gated = expression(|[a, b]| a * sigmoid(b));
    let by_channel = expression(|[x, scale, shift, r]| fuse::relu(x * scale + shift + r));
    for (name, f, broadcasts) in [
        ("elementwise", elementwise, &[Full][..]),
        ("gated", gated, &[Full, Full]),
        ("by_channel", by_channel, &[Full, Channel, Channel, Full]),
    ] {
        for dtype in [DType::F32, DType::F16] {
            let inputs: Vec<_> = broadcasts.iter().map(|broadcast| (dtype, *broadcast)).collect();
            let file = |pass: &str| folder.join(format!("{name}_{pass}_{dtype}.cu"));
            std::fs::write(file("fwd"), f.cuda_source(&inputs))?;
            std::fs::write(file("bwd"), f.cuda_gradient_source(&inputs))?;
        }
    }
    Ok(())
}
