//! Pictures from PNG, JPEG and WebP files, as Pillow's `convert("RGB")` or `convert("L")` gives them. Orientation metadata is ignored, and an
//! alpha channel dropped, as timm does.
use std::cell::Cell;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Endings of the names of files that are taken for pictures.
pub const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// The most pixels of a picture; Pillow refuses more too.
pub const MAX_PIXELS: usize = 178_956_970;
/// The most memory for its decoded bytes.
const MAX_BYTES: usize = 256 << 20;

/// A decoded picture: bytes row by row, channels last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Height, width, and 1 (grey) or 3 (red, green, blue) channels.
    pub size: [usize; 3],
    /// `h * w * c` bytes.
    pub pixels: Vec<u8>,
}

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// True while this thread is within a decoder, whose panics are told as errors of the file.
pub fn is_decoding() -> bool {
    DECODING.get()
}

impl Picture {
    /// Decodes a file of any of the formats, told apart by its first bytes. The error says what is wrong with it.
    pub fn decode(bytes: &[u8], channels: usize) -> Result<Picture, String> {
        let decode = || match bytes {
            [0x89, b'P', b'N', b'G', ..] => png(bytes),
            [0xff, 0xd8, ..] => jpeg(bytes),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp(bytes),
            [] => Err("it is empty".into()),
            _ => Err("it is neither a PNG nor a JPEG nor a WebP file".into()),
        };
        DECODING.set(true);
        let result = catch_unwind(AssertUnwindSafe(decode));
        DECODING.set(false);
        let picture = result.unwrap_or_else(|_| Err("its decoder cannot handle it".into()))?;
        Ok(picture.with_channels(channels))
    }

    /// Grey made of colours by ITU-R 601 weights in Pillow's fixed-point arithmetic, or colours of grey.
    fn with_channels(self, channels: usize) -> Picture {
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
        Picture { size: [h, w, channels], pixels }
    }

    /// Of decoded bytes with 1 to 4 channels, of which the second or fourth is an alpha channel.
    fn of(width: usize, height: usize, channels: usize, bytes: Vec<u8>) -> Result<Picture, String> {
        let colours = if channels > 2 { 3 } else { 1 };
        let pixels = match channels == colours {
            true => bytes,
            false => bytes.chunks_exact(channels).flat_map(|pixel| &pixel[..colours]).copied().collect(),
        };
        match pixels.len() == height * width * colours {
            true => Ok(Picture { size: [height, width, colours], pixels }),
            false => Err("its decoder gave another number of pixels than announced".into()),
        }
    }
}

/// The bytes to decode to, if the picture is not too large.
fn room(width: usize, height: usize, channels: usize) -> Result<usize, String> {
    let pixels = width.checked_mul(height).filter(|pixels| *pixels <= MAX_PIXELS);
    match pixels.and_then(|pixels| pixels.checked_mul(channels)) {
        Some(0) => Err("it has no pixels".into()),
        Some(bytes) if bytes <= MAX_BYTES => Ok(bytes),
        _ => Err(format!(
            "it has {width}x{height} pixels; at most {MAX_PIXELS} in {MAX_BYTES} bytes are decoded"
        )),
    }
}

fn png(bytes: &[u8]) -> Result<Picture, String> {
    let text = |e: png::DecodingError| format!("it is no whole PNG file: {e}");
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: MAX_BYTES });
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    decoder.set_ignore_text_chunk(true);
    let mut reader = decoder.read_info().map_err(text)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let channels = reader.output_color_type().0.samples();
    let mut pixels = vec![0; room(width, height, channels)?];
    if reader.output_buffer_size() != Some(pixels.len()) {
        return Err("its rows are of another length than announced".into());
    }
    reader.next_frame(&mut pixels).map_err(text)?;
    Picture::of(width, height, channels, pixels)
}

fn jpeg(bytes: &[u8]) -> Result<Picture, String> {
    let text = |e: zune_jpeg::errors::DecodeErrors| format!("it is no whole JPEG file: {e}");
    // Strict: a file that ends early is an error, not grey from there on.
    let options =
        DecoderOptions::new_fast().set_max_width(MAX_PIXELS).set_max_height(MAX_PIXELS).set_strict_mode(true);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(text)?;
    let info = decoder.info().ok_or("it says nothing of its size")?;
    let grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let (colours, channels) = if grey { (ColorSpace::Luma, 1) } else { (ColorSpace::RGB, 3) };
    let (width, height) = (usize::from(info.width), usize::from(info.height));
    let mut pixels = vec![0; room(width, height, channels)?];
    decoder.set_options(options.jpeg_set_out_colorspace(colours));
    decoder.decode_into(&mut pixels).map_err(text)?;
    Picture::of(width, height, channels, pixels)
}

fn webp(bytes: &[u8]) -> Result<Picture, String> {
    let text = |e: image_webp::DecodingError| format!("it is no whole WebP file: {e}");
    let mut decoder = image_webp::WebPDecoder::new(Cursor::new(bytes)).map_err(text)?;
    decoder.set_memory_limit(MAX_BYTES);
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let mut pixels = vec![0; room(width, height, channels)?];
    match decoder.is_animated() {
        true => decoder.read_frame(&mut pixels).map(|_| ()),
        false => decoder.read_image(&mut pixels),
    }
    .map_err(text)?;
    Picture::of(width, height, channels, pixels)
}
