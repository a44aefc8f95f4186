//! Collective operations between GPUs by NCCL.
//!
//! [`NcclCollective`] is one rank of a process group. Its operations run on the device's communication stream: they begin after the work
//! that the compute stream has queued so far, and overlap with later work until [`PendingCollective::wait`](crate::PendingCollective::wait).
//! In a CUDA graph capture they become part of the graph.
//!
//! NCCL waits for peers on the GPU, where a lost peer leaves the host waiting too. A watchdog thread therefore aborts the communicator after
//! an asynchronous error, and after an operation that has not ended within the timeout; every later call returns that error.
mod api;
mod collective;
mod communicator;

pub use collective::NcclCollective;
pub use communicator::UniqueId;

/// File names of NCCL, the newest first.
pub(super) const LIBRARY_NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
