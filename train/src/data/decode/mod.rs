//! Decoding of image files, equal to Pillow's `convert("RGB")` or `convert("L")`. As in timm, an alpha channel is dropped and EXIF
//! orientation is ignored, unless it is requested.
mod bmp;
mod cmyk;
mod exif;
mod gif;
mod gray16;
mod header;
mod jpeg;
mod png;
mod qoi;
mod region;
mod tiff;
mod webp;

pub use gray16::{Gray16, gray16_note, is_gray16};
pub use header::{HeaderVerdict, check_header};
pub use jpeg::JpegRepair;
pub use region::RegionDecoder;

use super::image::Image;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// File extensions of images.
pub const EXTENSIONS: [&str; 11] =
    ["png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "gif", "tif", "tiff", "qoi"];

/// Maximum size of an image file in bytes.
pub const MAX_FILE_BYTES: u64 = 256 << 20;
/// Maximum number of pixels of an image: Pillow's limit against decompression bombs.
pub const MAX_PIXELS: usize = 178_956_970;
/// Maximum size of the pixels as a decoder returns them, in bytes: the largest image with four channels.
const MAX_BYTES: usize = 4 * MAX_PIXELS;

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// True while this thread runs a decoder; its panics are reported as errors of the file.
pub fn is_decoding() -> bool {
    DECODING.get()
}

/// Options of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Channels of the result: 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Rotate and mirror the image as its EXIF orientation says.
    pub exif_orientation: bool,
    /// Conversion of 16-bit grey values to 8 bits.
    pub gray16: Gray16,
}

impl DecodeOptions {
    /// The defaults for a number of channels: EXIF orientation is ignored, 16-bit grey values are scaled.
    pub fn new(channels: usize) -> DecodeOptions {
        DecodeOptions { channels, exif_orientation: false, gray16: Gray16::default() }
    }
}

/// Decoded image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedFile {
    /// The image.
    pub image: Image,
    /// Defect of a JPEG that was repaired.
    pub repair: Option<JpegRepair>,
    /// The file has 16-bit grey values.
    pub is_gray16: bool,
}

impl Image {
    /// Decodes an image file, recognised by its first bytes, to 1 or 3 channels. The error describes the defect of the file.
    pub fn decode(bytes: &[u8], channels: usize) -> Result<Image, String> {
        Image::decode_with(bytes, &DecodeOptions::new(channels))
    }

    /// Decodes an image file, recognised by its first bytes. The error describes the defect of the file.
    pub fn decode_with(bytes: &[u8], options: &DecodeOptions) -> Result<Image, String> {
        decode_file(bytes, options).map(|file| file.image)
    }

    /// Creates an image from decoded bytes with 1 to 4 channels; the second of 2 or fourth of 4 is an alpha channel, which is dropped.
    fn from_decoded(width: usize, height: usize, channels: usize, bytes: Vec<u8>) -> Result<Image, String> {
        let colours = if channels > 2 { 3 } else { 1 };
        let pixels = match channels == colours {
            true => bytes,
            false => bytes.chunks_exact(channels).flat_map(|pixel| &pixel[..colours]).copied().collect(),
        };
        match pixels.len() == height * width * colours {
            true => Ok(Image { size: [height, width, colours], pixels }),
            false => Err("the decoder returned another number of pixels than expected".into()),
        }
    }
}

/// Decodes an image file, recognised by its first bytes, and reports repairs. The error describes the defect of the file.
pub fn decode_file(bytes: &[u8], options: &DecodeOptions) -> Result<DecodedFile, String> {
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("it has {} bytes; at most {MAX_FILE_BYTES} are read", bytes.len()));
    }
    let decode = || -> Result<DecodedFile, String> {
        let mut repair = None;
        let (image, exif) = match bytes {
            [0x89, b'P', b'N', b'G', ..] => png::decode(bytes, options.gray16)?,
            [0xff, 0xd8, ..] => {
                let image;
                (image, repair) = jpeg::decode(bytes)?;
                (image, jpeg::exif(bytes))
            }
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp::decode(bytes)?,
            [b'G', b'I', b'F', b'8', ..] => (gif::decode(bytes)?, None),
            [b'B', b'M', ..] => (bmp::decode(bytes)?, None),
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => {
                (tiff::decode(bytes, options.gray16)?, None)
            }
            [b'q', b'o', b'i', b'f', ..] => (qoi::decode(bytes)?, None),
            [] => return Err("the file is empty".into()),
            _ => return Err("it is not a PNG, JPEG, WebP, GIF, BMP, TIFF or QOI file".into()),
        };
        let image = match exif.filter(|_| options.exif_orientation) {
            Some(exif) => exif::oriented(image, exif::orientation(&exif)),
            None => image,
        };
        Ok(DecodedFile { image, repair, is_gray16: is_gray16(bytes) })
    };
    let file = guarded(decode)?;
    Ok(DecodedFile { image: file.image.with_channels(options.channels), ..file })
}

/// Runs a decoder; its panic is an error of the file.
fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    DECODING.set(true);
    let result = catch_unwind(AssertUnwindSafe(decode));
    DECODING.set(false);
    result.unwrap_or_else(|_| Err("the decoder failed".into()))
}

/// Size in bytes of an image of `bytes_per_pixel`, as its decoder returns it. Errors if it is 0 or above the limits.
fn decoded_size(width: usize, height: usize, bytes_per_pixel: usize) -> Result<usize, String> {
    let pixels = width.checked_mul(height).filter(|pixels| *pixels <= MAX_PIXELS);
    match pixels.and_then(|pixels| pixels.checked_mul(bytes_per_pixel)) {
        Some(0) => Err("it has no pixels".into()),
        Some(bytes) if bytes <= MAX_BYTES => Ok(bytes),
        _ => Err(format!(
            "it is too large: {width}x{height} pixels; at most {} are decoded",
            MAX_PIXELS.min(MAX_BYTES / bytes_per_pixel.max(1))
        )),
    }
}

/// Describes a decoder's error.
fn damage(format: &str, truncated: bool, error: &dyn std::fmt::Display) -> String {
    if truncated { format!("the {format} is truncated") } else { format!("the {format} is damaged: {error}") }
}

fn is_eof(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::UnexpectedEof
}
