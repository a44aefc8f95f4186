//! Writes the CUDA kernels of every optimizer to a folder: `cargo run -p fornax --example optimizer_kernels -- FOLDER [NAME…]`.
use fornax::optim::{OptimizerOptions, optimizer_names_with_lookahead, rule};
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
    Ok(())
}
