//! CPU threads of a command: `--threads`.
use crate::{Error, Result};

/// Sets the number of CPU threads of the kernels. Warns if there are fewer CPUs.
pub fn set_threads(threads: Option<u16>) -> Result<()> {
    set_threads_of_rank(threads, 1)
}

/// As [`set_threads`], for one of several processes on this machine, which divide the CPUs by default.
pub fn set_threads_of_rank(threads: Option<u16>, processes: usize) -> Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.map_or((cpus / processes).max(1), usize::from);
    if threads > cpus {
        eprintln!(
            "warning: --threads {threads} is more than the {cpus} CPUs that this process may use, which is slower than --threads {cpus}"
        );
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global()
        .map_err(|e| Error::usage("the thread pool cannot be started").at("--threads").because(e))
}
