//! CPU threads of a command: `--threads`.
use crate::{Error, Result};

/// Sets the number of CPU threads of the kernels. Warns if there are fewer CPUs.
pub fn set_threads(threads: Option<u16>) -> Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.map_or(0, usize::from);
    if threads > cpus {
        eprintln!(
            "warning: --threads {threads} is more than the {cpus} CPUs that this process may use, which is slower than --threads {cpus}"
        );
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global()
        .map_err(|e| Error::usage("the thread pool cannot be started").at("--threads").because(e))
}
