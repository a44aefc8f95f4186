//! Kernels of JPEG decoding and image resizing, over u8 samples. Their arithmetic is integer: every SIMD level gives the same bits.
pub mod inverse_dct;
pub mod resize;
pub mod upsample;
pub mod ycbcr;
