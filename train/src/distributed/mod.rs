//! Data-parallel training on several processes, one per device.
//!
//! Each process is a rank of a group; a launcher tells it its rank ([`launcher`]). The ranks meet at rank 0 ([`rendezvous`]) and form a
//! [`ProcessGroup`], which carries values of the host, heartbeats and failures. Tensors are reduced by a
//! [`Collective`](fornax_engine::Collective): [`TcpCollective`] on the CPU.
mod agent_store;
mod frame;
mod group;
pub mod launcher;
mod reduce;
pub mod rendezvous;
mod tcp;

pub use frame::Frame;
pub use group::{PendingValues, ProcessGroup};
pub use launcher::{Launch, LaunchFlags};
pub use rendezvous::{Identity, join};
pub use tcp::TcpCollective;
