//! Device and CPU threads of a command: `--device`, `--threads`.
use crate::config::IgnoredOption;
use crate::device::DeviceSpec;
use crate::settings::ConvAlgo;
use crate::{Error, Result};
use clap::value_parser;
use fornax_engine::Device;

/// Options of every command that runs a model.
#[derive(clap::Args, Clone, Debug)]
pub struct ComputeArgs {
    /// Device: auto (first CUDA device, else CPU), cpu, cuda, cuda:N, emulated or emulated:COUNT (CUDA kernels on the CPU, slow)
    #[arg(long, value_name = "DEVICE", default_value = "auto", help_heading = "Run")]
    pub device: DeviceSpec,
    /// CPU threads; results do not depend on it [default: one per logical CPU]
    #[arg(long, value_name = "N", help_heading = "Run", value_parser = value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
}

impl ComputeArgs {
    /// Sets the number of CPU threads of the kernels. Warns if there are fewer CPUs.
    pub fn set_threads(&self) -> Result<()> {
        self.set_threads_of_rank(1)
    }

    /// As [`ComputeArgs::set_threads`], for one of several processes on this machine, which divide the CPUs by default.
    pub fn set_threads_of_rank(&self, processes: usize) -> Result<()> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.threads.map_or((cpus / processes).max(1), usize::from);
        if threads > cpus {
            message!(
                "warning: --threads {threads} is more than the {cpus} CPUs that this process may use, which is slower than --threads {cpus}"
            );
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build_global()
            .map_err(|e| Error::usage("the thread pool cannot be started").at("--threads").because(e))
    }
}

/// `--conv-algo` with a device that ignores it, unless it is at its default.
pub fn ignored_conv_algo(given: Option<ConvAlgo>, device: &Device) -> Option<IgnoredOption> {
    let is_ignored = *device != Device::Cpu && given.unwrap_or_default() != ConvAlgo::default();
    is_ignored.then(|| IgnoredOption::new("conv_algo", "on a CUDA device cuDNN computes the convolutions"))
}
