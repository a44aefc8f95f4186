//! CPU kernels: plain functions over slices and shapes, without tensors.
//!
//! Most kernels are generic over f32 and f64. f64, and every case without a fast path, uses plain loops, which are also the reference
//! of the f32 path. Work is split by shapes alone, so results do not depend on the number of threads.
#![allow(
    unsafe_op_in_unsafe_fn,
    clippy::undocumented_unsafe_blocks,
    clippy::missing_safety_doc,
    reason = "a kernel is one unsafe function over raw pointers; its doc comment states their requirements"
)]
pub mod cast;
pub(crate) mod fold;
pub mod gemm;
pub mod image;
pub(crate) mod kernel;
pub mod parallel;
pub mod scratch;
pub mod simd;
pub mod stored;
pub(crate) mod vectorized;

pub use crate::host_memory as memory;
/// The functions of f32 and f64 that kernels compute with.
pub use crate::scalar::elementary;
