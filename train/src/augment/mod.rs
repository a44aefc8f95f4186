//! Augmentation of batches.
pub mod mixing;
