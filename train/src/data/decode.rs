//! PNG, JPEG and WebP decoding, equal to Pillow's `convert("RGB")` or `convert("L")`. As in timm, EXIF orientation is ignored and an
//! alpha channel is dropped.
use std::cell::Cell;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use zune_core::bytestream::{ZByteIoError, ZCursor};
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

/// File extensions of images.
pub const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// Maximum number of pixels of an image: Pillow's limit against decompression bombs.
pub const MAX_PIXELS: usize = 178_956_970;
/// Maximum size of the decoded image in bytes.
const MAX_BYTES: usize = 256 << 20;

/// Decoded image: u8 `[h, w, c]`, row by row, channels last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Height, width, and 1 (grey) or 3 (red, green, blue) channels.
    pub size: [usize; 3],
    /// `h * w * c` bytes.
    pub pixels: Vec<u8>,
}

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// True while this thread runs a decoder; its panics are reported as errors of the file.
pub fn is_decoding() -> bool {
    DECODING.get()
}

impl Image {
    /// Decodes a PNG, JPEG or WebP file, recognised by its first bytes, to 1 or 3 channels. The error describes the defect of the file.
    pub fn decode(bytes: &[u8], channels: usize) -> Result<Image, String> {
        let decode = || match bytes {
            [0x89, b'P', b'N', b'G', ..] => png(bytes),
            [0xff, 0xd8, ..] => jpeg(bytes),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp(bytes),
            [] => Err("the file is empty".into()),
            _ => Err("it is neither a PNG nor a JPEG nor a WebP file".into()),
        };
        DECODING.set(true);
        let result = catch_unwind(AssertUnwindSafe(decode));
        DECODING.set(false);
        let image = result.unwrap_or_else(|_| Err("the decoder failed".into()))?;
        Ok(image.with_channels(channels))
    }

    /// Converts RGB to grey by ITU-R 601 weights in Pillow's fixed-point arithmetic, or grey to RGB.
    fn with_channels(self, channels: usize) -> Image {
        let [h, w, c] = self.size;
        let pixels = match (c, channels) {
            (1, 3) => self.pixels.iter().flat_map(|v| [*v; 3]).collect(),
            (3, 1) => {
                let grey = |p: &[u8]| {
                    let [r, g, b] = [p[0], p[1], p[2]].map(u32::from);
                    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
                };
                self.pixels.chunks_exact(3).map(grey).collect()
            }
            _ => return self,
        };
        Image { size: [h, w, channels], pixels }
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

fn png(bytes: &[u8]) -> Result<Image, String> {
    let text = |e: png::DecodingError| {
        damage("PNG", matches!(&e, png::DecodingError::IoError(io) if is_eof(io)), &e)
    };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: MAX_BYTES });
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    decoder.set_ignore_text_chunk(true);
    let mut reader = decoder.read_info().map_err(text)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let channels = reader.output_color_type().0.samples();
    let mut pixels = vec![0; decoded_size(width, height, channels)?];
    if reader.output_buffer_size() != Some(pixels.len()) {
        return Err("the PNG's rows have another length than announced".into());
    }
    reader.next_frame(&mut pixels).map_err(text)?;
    Image::from_decoded(width, height, channels, pixels)
}

/// JPEG marker at the end of a complete file.
const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];

fn jpeg(bytes: &[u8]) -> Result<Image, String> {
    let text = |e: DecodeErrors| {
        let not_enough = |io: &ZByteIoError| matches!(io, ZByteIoError::NotEnoughBytes(..));
        let truncated = match &e {
            DecodeErrors::ExhaustedData => true,
            DecodeErrors::IoErrors(io) if not_enough(io) => true,
            _ => !bytes.ends_with(&END_OF_IMAGE),
        };
        damage("JPEG", truncated, &e)
    };
    // Strict: a truncated file is an error; otherwise the missing part would be grey.
    let options =
        DecoderOptions::new_fast().set_max_width(MAX_PIXELS).set_max_height(MAX_PIXELS).set_strict_mode(true);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(text)?;
    let info = decoder.info().ok_or("the JPEG has no size")?;
    let grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let (colours, channels) = if grey { (ColorSpace::Luma, 1) } else { (ColorSpace::RGB, 3) };
    let (width, height) = (usize::from(info.width), usize::from(info.height));
    let mut pixels = vec![0; decoded_size(width, height, channels)?];
    decoder.set_options(options.jpeg_set_out_colorspace(colours));
    decoder.decode_into(&mut pixels).map_err(text)?;
    Image::from_decoded(width, height, channels, pixels)
}

fn webp(bytes: &[u8]) -> Result<Image, String> {
    let text = |e: image_webp::DecodingError| {
        damage("WebP", matches!(&e, image_webp::DecodingError::IoError(io) if is_eof(io)), &e)
    };
    let mut decoder = image_webp::WebPDecoder::new(Cursor::new(bytes)).map_err(text)?;
    decoder.set_memory_limit(MAX_BYTES);
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let mut pixels = vec![0; decoded_size(width, height, channels)?];
    match decoder.is_animated() {
        true => decoder.read_frame(&mut pixels).map(|_| ()),
        false => decoder.read_image(&mut pixels),
    }
    .map_err(text)?;
    Image::from_decoded(width, height, channels, pixels)
}
