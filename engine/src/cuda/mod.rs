//! The CUDA side of the engine.
pub mod blas;
pub mod dnn;
mod library;

pub use library::{LibraryError, Workspace};
