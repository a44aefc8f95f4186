//! Operations on images.
pub(crate) mod cpu;
pub(crate) mod cuda;
mod grid_sample;
mod interpolate;
mod normalize;
mod prepare;

pub use prepare::{EraseMode, ImageBox, ImageChange, ImagePreparation};
