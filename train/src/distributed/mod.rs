//! Data-parallel training on several processes, one per device.
//!
//! Each process is a rank of a group; a launcher tells it its rank ([`launcher`]). The ranks meet at rank 0 ([`rendezvous`]) and form a
//! [`ProcessGroup`], which carries values of the host, heartbeats and failures. Tensors are reduced by a
//! [`Collective`](fornax_engine::Collective): [`TcpCollective`] on the CPU, NCCL on CUDA devices. [`DataParallel`] averages gradients during the backward pass, and
//! [`DistributedRun`] agrees on signals, checkpoints and running statistics.
mod agent_store;
mod buckets;
mod conv_plans;
mod data_parallel;
mod group;
pub mod launcher;
mod mesh;
mod nccl_environment;
mod reduce;
pub mod rendezvous;
mod run;
mod tcp;
mod wire;

pub use data_parallel::DataParallel;
pub use group::{PendingValues, ProcessGroup};
pub use launcher::{Job, Launch, LaunchFlags};
pub use nccl_environment::restart_with_deterministic_nccl;
pub use rendezvous::{Identity, free_port, join};
pub use run::{DistributedRun, Flags};
pub use tcp::TcpCollective;
pub use wire::{Frame, Handshake, HandshakeError, RendezvousToken, Timed};
