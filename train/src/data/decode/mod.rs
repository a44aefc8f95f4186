//! Decoding of image files, equal to Pillow's `convert("RGB")` or `convert("L")`. As in timm, an alpha channel is dropped and EXIF
//! orientation is ignored, unless it is asked for.
mod bmp;
mod exif;
mod gif;
mod header;
mod jpeg;
mod png;
mod region;
mod webp;

pub use header::{HeaderVerdict, check_header};
pub use region::RegionDecoder;

use super::image::Image;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// File extensions of images.
pub const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "bmp", "gif"];

/// Maximum size of an image file in bytes.
pub const MAX_FILE_BYTES: u64 = 256 << 20;
/// Maximum number of pixels of an image: Pillow's limit against decompression bombs.
pub const MAX_PIXELS: usize = 178_956_970;
/// Maximum size of the decoded image in bytes.
const MAX_BYTES: usize = 256 << 20;

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
}

impl Image {
    /// Decodes an image file, recognised by its first bytes, to 1 or 3 channels. The error describes the defect of the file.
    pub fn decode(bytes: &[u8], channels: usize) -> Result<Image, String> {
        Image::decode_with(bytes, &DecodeOptions { channels, exif_orientation: false })
    }

    /// Decodes an image file, recognised by its first bytes. The error describes the defect of the file.
    pub fn decode_with(bytes: &[u8], options: &DecodeOptions) -> Result<Image, String> {
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(format!("it has {} bytes; at most {MAX_FILE_BYTES} are read", bytes.len()));
        }
        let decode = || -> Result<Image, String> {
            let (image, exif) = match bytes {
                [0x89, b'P', b'N', b'G', ..] => png::decode(bytes)?,
                [0xff, 0xd8, ..] => (jpeg::decode(bytes)?, jpeg::exif(bytes)),
                [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp::decode(bytes)?,
                [b'G', b'I', b'F', b'8', ..] => (gif::decode(bytes)?, None),
                [b'B', b'M', ..] => (bmp::decode(bytes)?, None),
                [] => return Err("the file is empty".into()),
                _ => return Err("it is not a PNG, JPEG, WebP, GIF or BMP file".into()),
            };
            Ok(match exif.filter(|_| options.exif_orientation) {
                Some(exif) => exif::oriented(image, exif::orientation(&exif)),
                None => image,
            })
        };
        Ok(guarded(decode)?.with_channels(options.channels))
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
            false => Err("the decoder returned another number of pixels than announced".into()),
        }
    }
}

/// Runs a decoder; its panic is an error of the file.
fn guarded(decode: impl FnOnce() -> Result<Image, String>) -> Result<Image, String> {
    DECODING.set(true);
    let result = catch_unwind(AssertUnwindSafe(decode));
    DECODING.set(false);
    result.unwrap_or_else(|_| Err("the decoder failed".into()))
}

/// Size of the decoded image in bytes. Errors if it is 0 or above the limits.
fn decoded_size(width: usize, height: usize, channels: usize) -> Result<usize, String> {
    let pixels = width.checked_mul(height).filter(|pixels| *pixels <= MAX_PIXELS);
    match pixels.and_then(|pixels| pixels.checked_mul(channels)) {
        Some(0) => Err("it has no pixels".into()),
        Some(bytes) if bytes <= MAX_BYTES => Ok(bytes),
        _ => Err(format!(
            "it has {width}x{height} pixels; at most {MAX_PIXELS} in {MAX_BYTES} bytes are decoded"
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
