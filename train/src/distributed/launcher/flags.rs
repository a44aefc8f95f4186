//! Flags of the place of a process in its group.

use super::DEFAULT_TIMEOUT;
use std::time::Duration;

/// Flags of the place of a process in its group.
#[derive(clap::Args, Clone, Debug, Default, PartialEq)]
pub struct LaunchFlags {
    /// Rank of this process, from 0; launchers set it in the environment: torchrun, Slurm, Open MPI, MPICH
    #[arg(long, value_name = "N", help_heading = "Distributed", allow_negative_numbers = true)]
    pub rank: Option<usize>,
    /// Number of processes
    #[arg(long, value_name = "N", help_heading = "Distributed", allow_negative_numbers = true)]
    pub world_size: Option<usize>,
    /// Rank of this process on its machine; it selects the CUDA device
    #[arg(long, value_name = "N", help_heading = "Distributed", allow_negative_numbers = true)]
    pub local_rank: Option<usize>,
    /// Host of rank 0
    #[arg(long, value_name = "HOST", help_heading = "Distributed")]
    pub master_addr: Option<String>,
    /// TCP port of rank 0
    #[arg(long, value_name = "PORT", help_heading = "Distributed")]
    pub master_port: Option<u16>,
    /// Name of the job, equal on all ranks and of no other job: ranks of another job are ignored, and it selects the default port;
    /// launchers set it in the environment [env: FORNAX_RDZV_ID]
    #[arg(long, value_name = "ID", help_heading = "Distributed")]
    pub rdzv_id: Option<String>,
    /// Seconds after which a silent rank counts as lost, and the others end with exit code 8; a busy one after five times as
    /// many [default: 120]
    #[arg(long, value_name = "SECONDS", help_heading = "Distributed", value_parser = crate::settings::value_parsers::positive)]
    pub dist_timeout: Option<f64>,
}

impl LaunchFlags {
    /// Limit of the time without a reply.
    pub fn timeout(&self) -> Duration {
        self.dist_timeout.map_or(DEFAULT_TIMEOUT, Duration::from_secs_f64)
    }
}
