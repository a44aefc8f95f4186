//! Tensors, reverse-mode autograd and CPU kernels for training image models.
pub mod conv_shape;
pub mod cpu;
pub mod dtype;
