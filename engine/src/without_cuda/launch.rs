//! Kernels, their arguments and grids.
#[path = "../cuda/launch/arguments.rs"]
pub(crate) mod arguments;
#[path = "../cuda/launch/channels.rs"]
pub(crate) mod channels;
#[path = "../cuda/launch/kernel.rs"]
pub(crate) mod kernel;
#[path = "../cuda/launch/strided_pair.rs"]
pub(crate) mod strided_pair;

pub(crate) use kernel::{grid_extent, to_i32, to_i32s};
