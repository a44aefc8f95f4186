//! Flags of the place of a process in its group.

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
    /// Seconds after which a silent rank counts as lost, and the others end with exit code 8; a busy one after five times as
    /// many [default: 120]
    #[arg(long, value_name = "SECONDS", help_heading = "Distributed", value_parser = crate::settings::value_parsers::positive)]
    pub dist_timeout: Option<f64>,
}
