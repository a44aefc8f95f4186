//! Elementwise operations.
mod activation;
mod binary;
mod compare;
pub(crate) mod cpu;
pub(crate) mod cuda;
mod unary;

pub use compare::Comparand;
