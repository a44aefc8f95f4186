//! Launchers of operations on images.
pub(crate) mod interpolate;
pub(crate) mod normalize;
