//! Pooling on the CPU.
#![allow(
    unsafe_op_in_unsafe_fn,
    clippy::undocumented_unsafe_blocks,
    reason = "a kernel is one unsafe function over raw pointers; its doc comment states their requirements"
)]
mod adaptive;
mod max;
mod window_max;

pub(crate) use adaptive::amax_backward;
pub(crate) use max::{max_backward, max_forward, pick_maxima};
