//! `fornax kernels`: which CUDA kernels there are, and compiling them ahead of time.
use super::{print, table};
use crate::error::Kind;
use crate::{Error, Result};
use clap::Subcommand;
use fornax_engine::cuda;
use fornax_kernels::{cache, kernel_modules, module_image};

/// What to do with them.
#[derive(Subcommand)]
pub enum KernelsCommand {
    /// List the families and their kernels
    List,
    /// Compile every family for this machine's CUDA devices, or for another architecture, into the cache
    Build {
        /// Compute capability to compile for, such as 9.0 [default: those of this machine's devices]
        #[arg(long, value_name = "X.Y", value_parser = capability)]
        arch: Option<(u32, u32)>,
    },
}

pub fn execute(command: &KernelsCommand) -> Result<()> {
    match command {
        KernelsCommand::List => list(),
        KernelsCommand::Build { arch } => build(*arch)?,
    }
    Ok(())
}

fn list() {
    let mut rows = vec![["FAMILY", "KERNELS"].map(String::from).to_vec()];
    for family in kernel_modules() {
        for (i, kernel) in family.kernels().into_iter().enumerate() {
            rows.push(vec![if i == 0 { family.name.into() } else { String::new() }, kernel]);
        }
    }
    print(&table(&rows, &[]));
}

fn build(arch: Option<(u32, u32)>) -> Result<()> {
    let unusable = |why: String| {
        Error::new(Kind::Device, "no kernels were compiled")
            .because(why)
            .remedy("`fornax doctor` says which libraries are missing; --arch X.Y compiles without a device")
    };
    let mut capabilities = match arch {
        Some(capability) => vec![capability],
        None => cuda::devices().map_err(unusable)?.into_iter().map(|device| device.capability).collect(),
    };
    capabilities.sort_unstable();
    capabilities.dedup();
    for (major, minor) in capabilities {
        let mut total = 0;
        for family in kernel_modules() {
            total += module_image(family.name, (major, minor)).map_err(|e| unusable(e.to_string()))?.len();
        }
        let (count, cache) = (kernel_modules().len(), cache::folder());
        print(&format!(
            "{count} families for compute capability {major}.{minor}: {total} bytes, cached in {}\n",
            cache.display()
        ));
    }
    Ok(())
}

fn capability(text: &str) -> std::result::Result<(u32, u32), String> {
    let (major, minor) = text.split_once('.').ok_or("must be two numbers, such as 9.0")?;
    match (major.parse(), minor.parse()) {
        (Ok(major), Ok(minor)) if major >= 8 => Ok((major, minor)),
        (Ok(_), Ok(_)) => Err("the kernels need 8.0 or newer".into()),
        _ => Err("must be two numbers, such as 9.0".into()),
    }
}
