//! Operations on images.
pub(crate) mod cpu;
pub(crate) mod cuda;
mod interpolate;
mod normalize;
mod prepare;

pub use prepare::{EraseMode, ImageBox, ImageChange, ImagePreparation};
