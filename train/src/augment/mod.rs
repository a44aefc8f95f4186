//! Augmentation of batches.
pub mod mixing;
mod placement;

pub use placement::Augment;
