//! `fornax kernels`: list of the CUDA kernels, and ahead-of-time compilation.
use super::{print, table};
use crate::error::ErrorKind;
use crate::optim::{OptimizerOptions, optimizer_names, rule};
use crate::{Error, Result};
use clap::Subcommand;
use fornax_engine::cuda;
use fornax_kernels::{KernelSource, cache, compile_all, kernel_modules, kernel_units, recorded_sources};
use std::path::{Path, PathBuf};

/// Subcommands of `fornax kernels`.
#[derive(Subcommand)]
pub enum KernelsCommand {
    /// List the kernel modules and their kernels
    List,
    /// Compile all kernels, and those of the optimizers, into the cache, for this machine's CUDA devices or for --arch
    Build {
        /// Compute capabilities, such as 8.0,9.0 [default: those of this machine's devices]
        #[arg(long, value_name = "X.Y", value_parser = capability, value_delimiter = ',')]
        arch: Vec<(u32, u32)>,
        /// Folder of generated sources that programs stored with FORNAX_KERNEL_SOURCES; they are compiled too
        #[arg(long, value_name = "DIR")]
        sources: Option<PathBuf>,
    },
}

pub fn execute(command: &KernelsCommand) -> Result<()> {
    match command {
        KernelsCommand::List => list()?,
        KernelsCommand::Build { arch, sources } => build(arch, sources.as_deref())?,
    }
    Ok(())
}

fn list() -> Result<()> {
    let mut rows = vec![["MODULE", "KERNELS"].map(String::from).to_vec()];
    for module in kernel_modules() {
        for (i, kernel) in module.kernels().into_iter().enumerate() {
            rows.push(vec![if i == 0 { module.name.into() } else { String::new() }, kernel]);
        }
    }
    print(&table(&rows, &[]))
}

fn build(arch: &[(u32, u32)], sources: Option<&Path>) -> Result<()> {
    let unusable = |why: String| {
        Error::new(ErrorKind::Device, "no kernels were compiled")
            .because(why)
            .remedy("`fornax doctor` shows the missing libraries; --arch X.Y compiles without a device")
    };
    let mut capabilities = match arch {
        [] => cuda::devices().map_err(unusable)?.into_iter().map(|device| device.capability).collect(),
        given => given.to_vec(),
    };
    capabilities.sort_unstable();
    capabilities.dedup();
    let mut generated = optimizer_sources()?;
    if let Some(folder) = sources {
        let what = "the generated sources cannot be read";
        generated.extend(
            recorded_sources(folder).map_err(|e| Error::unreadable(ErrorKind::Data, what, folder, &e))?,
        );
    }
    generated.sort();
    generated.dedup();
    let generated = generated.iter().map(|(name, text)| KernelSource { name, text });
    let all: Vec<KernelSource> = kernel_units().iter().map(|unit| unit.source()).chain(generated).collect();
    for capability in capabilities {
        let sizes = compile_all(&all, capability).map_err(|e| unusable(e.to_string()))?;
        let ((major, minor), count, total) = (capability, all.len(), sizes.iter().sum::<usize>());
        print(&format!(
            "{count} kernel images for compute capability {major}.{minor}: {total} bytes, cached in {}\n",
            cache::folder().display()
        ))?;
    }
    Ok(())
}

/// Names and texts of the kernels of every optimizer with its default options.
fn optimizer_sources() -> Result<Vec<(String, String)>> {
    // Some optimizers depend on the highest learning rate, which the kernels read from memory.
    let options = OptimizerOptions { lr: Some(0.1), ..OptimizerOptions::default() };
    let mut found = vec![];
    for name in optimizer_names() {
        let rule = rule(name, &options)?.update;
        let named = rule.kernels().into_iter().zip(rule.cuda_sources());
        found.extend(named.map(|(name, text)| (name.to_string(), text.to_string())));
    }
    Ok(found)
}

fn capability(text: &str) -> std::result::Result<(u32, u32), String> {
    let (major, minor) = text.split_once('.').ok_or("must be two numbers, such as 9.0")?;
    match (major.parse(), minor.parse()) {
        (Ok(major), Ok(minor)) if major >= 8 => Ok((major, minor)),
        (Ok(_), Ok(_)) => Err("the kernels need compute capability 8.0 or newer".into()),
        _ => Err("must be two numbers, such as 9.0".into()),
    }
}
