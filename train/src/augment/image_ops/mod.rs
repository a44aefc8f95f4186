//! Operations on single images with Pillow's arithmetic.
mod affine;
mod blur;
mod enhance;
mod hue;
mod lookup;

pub use affine::{AffineMatrix, rotation, transform};
pub use blur::{box_gaussian_blur, gaussian_blur, reflect};
pub use enhance::{blend, brightness, color, contrast, grayscale, sharpness};
pub use hue::hue;
pub use lookup::{auto_contrast, equalize, invert, posterize, solarize, solarize_add};
