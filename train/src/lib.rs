//! Training image models from one binary.
#![forbid(unsafe_code)]
pub mod augment;
