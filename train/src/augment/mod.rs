//! Augmentation of training images and batches.
pub mod mixing;
mod shift_flip;

pub use shift_flip::Augment;
