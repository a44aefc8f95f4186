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
pub mod activation;
pub mod adaptive_pool;
pub mod add;
pub mod batch_norm;
pub mod bias_act;
pub mod binary;
pub mod cast;
pub mod conv2d;
pub mod copy_block;
pub mod cross_entropy;
pub mod dropout;
pub mod elementary;
pub mod expand;
pub mod fuse;
pub mod gemm;
pub mod gradients;
pub mod group_norm;
pub mod image;
pub(crate) mod kernel;
pub mod lines;
pub mod memory;
pub mod optimizer;
pub mod parallel;
pub mod permute;
pub mod pool;
pub mod power;
pub mod prepare;
pub mod reduce;
pub mod resample;
pub mod row_norm;
pub mod scratch;
pub mod simd;
pub mod soft_cross_entropy;
pub mod softmax;
pub mod stored;
pub mod unary;
mod vectorized;
pub mod window_max;
