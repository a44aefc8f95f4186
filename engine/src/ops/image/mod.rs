//! Operations on images.
pub(crate) mod cpu;
pub(crate) mod cuda;
mod interpolate;
mod normalize;
