//! `fornax kernels`: list of the CUDA kernels, and ahead-of-time compilation.
use super::{print, table};
use crate::error::ErrorKind;
use crate::{Error, Result};
use clap::Subcommand;
use fornax_engine::cuda;
use fornax_kernels::{cache, kernel_modules, module_image};

/// Subcommands of `fornax kernels`.
#[derive(Subcommand)]
pub enum KernelsCommand {
    /// List the kernel modules and their kernels
    List,
    /// Compile every kernel module into the cache, for this machine's CUDA devices or for --arch
    Build {
        /// Compute capability, such as 9.0 [default: those of this machine's devices]
        #[arg(long, value_name = "X.Y", value_parser = capability)]
        arch: Option<(u32, u32)>,
    },
}

pub fn execute(command: &KernelsCommand) -> Result<()> {
    match command {
        KernelsCommand::List => list()?,
        KernelsCommand::Build { arch } => build(*arch)?,
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

fn build(arch: Option<(u32, u32)>) -> Result<()> {
    let unusable = |why: String| {
        Error::new(ErrorKind::Device, "no kernels were compiled")
            .because(why)
            .remedy("`fornax doctor` shows the missing libraries; --arch X.Y compiles without a device")
    };
    let mut capabilities = match arch {
        Some(capability) => vec![capability],
        None => cuda::devices().map_err(unusable)?.into_iter().map(|device| device.capability).collect(),
    };
    capabilities.sort_unstable();
    capabilities.dedup();
    for (major, minor) in capabilities {
        let mut total = 0;
        for module in kernel_modules() {
            total += module_image(module.name, (major, minor)).map_err(|e| unusable(e.to_string()))?.len();
        }
        let (count, cache) = (kernel_modules().len(), cache::folder());
        print(&format!(
            "{count} kernel modules for compute capability {major}.{minor}: {total} bytes, cached in {}\n",
            cache.display()
        ))?;
    }
    Ok(())
}

fn capability(text: &str) -> std::result::Result<(u32, u32), String> {
    let (major, minor) = text.split_once('.').ok_or("must be two numbers, such as 9.0")?;
    match (major.parse(), minor.parse()) {
        (Ok(major), Ok(minor)) if major >= 8 => Ok((major, minor)),
        (Ok(_), Ok(_)) => Err("the kernels need compute capability 8.0 or newer".into()),
        _ => Err("must be two numbers, such as 9.0".into()),
    }
}
