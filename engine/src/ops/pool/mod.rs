//! Pooling of channels-last images.
mod adaptive;
mod avg;
pub(crate) mod cpu;
pub(crate) mod cuda;
mod global;
mod max;
mod shape;

pub(crate) use adaptive::AdaptivePool;
#[cfg(all(test, feature = "cuda"))]
pub(crate) use avg::window_means;
pub use global::GlobalPool;
pub use shape::{Pool2dOptions, PoolShape};
