//! Layers.
mod batch_norm;
mod conv2d;
mod dropout;
mod linear;
mod pool;
mod sequential;

pub use batch_norm::BatchNorm2d;
pub use conv2d::Conv2d;
pub use dropout::Dropout;
pub use linear::Linear;
pub use pool::{AvgPool2d, GlobalAvgPool, MaxPool2d};
pub use sequential::{Activate, Sequential};
