//! Elementwise operations on the CPU.
pub(crate) mod activation;
pub(crate) mod add;
pub(crate) mod binary;
pub(crate) mod unary;
