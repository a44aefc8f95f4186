//! Operations that change shape, order, dtype or device of elements. Most launchers are the runtime's copies (`cuda/memory/copy.rs`).
mod block;
mod cast;
mod concat;
pub(crate) mod cpu;
pub(crate) mod cuda;
mod expand;
mod flip;
mod permute;
mod rearrange;
mod reshape;
mod to_device;

pub(crate) use expand::broadcast_steps;
