//! Elementwise operations.
mod activation;
mod binary;
pub(crate) mod cpu;
pub(crate) mod cuda;
mod unary;
