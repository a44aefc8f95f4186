//! TIFF: the first page. As in Pillow, the orientation of a TIFF is always applied.
use super::cmyk::cmyk_to_rgb;
use super::{Gray16, MAX_BYTES, damage, decoded_size, exif, is_eof};
use crate::data::Image;
use std::borrow::Cow;
use std::io::Cursor;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

/// Value of the photometric interpretation of grey values, and of indices of a palette.
const BLACK_IS_ZERO: u16 = 1;
const PALETTE: u16 = 3;
/// Value of the extra samples for colours that are multiplied by alpha.
const ASSOCIATED_ALPHA: u16 = 1;
/// Tags of the first directory.
const PHOTOMETRIC: u16 = 262;
const BITS_PER_SAMPLE: u16 = 258;
const SAMPLES_PER_PIXEL: u16 = 277;

/// Decodes the first page.
pub fn decode(bytes: &[u8], gray16: Gray16) -> Result<Image, String> {
    let text = |e: TiffError| match &e {
        TiffError::IoError(io) if is_eof(io) => damage("TIFF", true, &e),
        TiffError::UnsupportedError(why) => format!("the TIFF's kind is not supported: {why}"),
        TiffError::LimitsExceeded => {
            format!("the TIFF is damaged or too large: it needs more than {MAX_BYTES} bytes of memory")
        }
        _ => damage("TIFF", false, &e),
    };
    // The decoder knows no palettes: indices are decoded as grey values.
    let (bytes, has_palette) = match field(bytes, PHOTOMETRIC) {
        Some((PALETTE, at)) => (Cow::Owned(with_short(bytes, at, BLACK_IS_ZERO)), true),
        _ => (Cow::Borrowed(bytes), false),
    };
    let mut limits = Limits::default();
    limits.decoding_buffer_size = MAX_BYTES;
    limits.intermediate_buffer_size = MAX_BYTES;
    let mut decoder = Decoder::new(Cursor::new(&bytes[..])).map_err(text)?.with_limits(limits);
    let (width, height) = decoder.dimensions().map_err(text)?;
    let (width, height) = (width as usize, height as usize);
    let colours = decoder.colortype().map_err(text)?;
    let layout = decoder.image_buffer_layout().map_err(text)?;
    // At most eight bytes per pixel, so the limit of memory is below the limit of pixels for these images.
    decoded_size(width, height, layout.complete_len.div_ceil((width * height).max(1)))?;
    let shorts = |decoder: &mut Decoder<_>, tag| decoder.find_tag_unsigned_vec::<u16>(tag).map_err(text);
    let palette = match has_palette {
        true => Some(shorts(&mut decoder, Tag::ColorMap)?.ok_or("the TIFF has no palette")?),
        false => None,
    };
    let alpha = shorts(&mut decoder, Tag::ExtraSamples)?.unwrap_or_default();
    let orientation = decoder.find_tag_unsigned::<u16>(Tag::Orientation).map_err(text)?.unwrap_or(1);
    let mut samples = DecodingResult::U8(vec![]);
    decoder.read_image_to_buffer(&mut samples).map_err(text)?;
    let page = Page {
        width,
        height,
        row_bytes: layout.row_stride.map_or(0, usize::from),
        planes: layout.planes,
        is_premultiplied: alpha.first() == Some(&ASSOCIATED_ALPHA),
    };
    let image = match (palette, colours) {
        (Some(palette), ColorType::Gray(bits @ (1 | 2 | 4 | 8))) => page.indexed(&samples, bits, &palette),
        (Some(_), _) => None,
        (None, ColorType::Gray(bits)) => page.grey(&samples, bits, gray16),
        (None, ColorType::Multiband { num_samples: 2, .. } | ColorType::GrayA(_)) => {
            page.colors(&samples, 2, |pixel| [pixel[0]])
        }
        (None, ColorType::RGB(_)) => page.colors(&samples, 3, |pixel| [pixel[0], pixel[1], pixel[2]]),
        (None, ColorType::YCbCr(8)) => {
            page.colors(&samples, 3, |pixel| super::jpeg::ycc_to_rgb(pixel[0], pixel[1], pixel[2]))
        }
        (None, ColorType::RGBA(_)) => page.rgba(&samples),
        (None, ColorType::CMYK(_)) => {
            page.colors(&samples, 4, |pixel| cmyk_to_rgb([pixel[0], pixel[1], pixel[2]], 255 - pixel[3]))
        }
        _ => None,
    };
    let kind = || format!("the TIFF's kind is not supported: {colours:?} with {} planes", layout.planes);
    Ok(exif::oriented(image.ok_or_else(kind)?, u8::try_from(orientation).unwrap_or(1)))
}

/// Page of a TIFF whose samples are decoded.
struct Page {
    width: usize,
    height: usize,
    /// Bytes of a row of samples.
    row_bytes: usize,
    /// Planes of samples; 1 if the samples of a pixel are adjacent.
    planes: usize,
    /// Colours are multiplied by alpha.
    is_premultiplied: bool,
}

impl Page {
    /// Grey values of a whole number of bits; Pillow converts numbers beyond 8 bits other than unsigned 16-bit ones by saturation.
    fn grey(&self, samples: &DecodingResult, bits: u8, gray16: Gray16) -> Option<Image> {
        let saturate = |value: f64| value.clamp(0.0, 255.0) as u8;
        let pixels: Vec<u8> = match samples {
            DecodingResult::U8(bytes) => {
                let largest = ((1u32 << bits) - 1) as u8;
                self.small_values(bytes, bits)?.map(|value| value * (255 / largest)).collect()
            }
            DecodingResult::U16(words) if bits == 16 => {
                words.iter().map(|word| gray16.convert(*word)).collect()
            }
            DecodingResult::I16(words) => words.iter().map(|word| saturate(f64::from(*word))).collect(),
            DecodingResult::U32(words) => words.iter().map(|word| saturate(f64::from(*word))).collect(),
            DecodingResult::I32(words) => words.iter().map(|word| saturate(f64::from(*word))).collect(),
            DecodingResult::F32(values) => values.iter().map(|value| saturate(f64::from(*value))).collect(),
            _ => return None,
        };
        self.image(1, pixels)
    }

    /// Colours of the indices of a palette: all red values, then green, then blue.
    fn indexed(&self, samples: &DecodingResult, bits: u8, palette: &[u16]) -> Option<Image> {
        let DecodingResult::U8(bytes) = samples else { return None };
        let colours = palette.len() / 3;
        let high_byte = |at: usize| palette.get(at).map_or(0, |value| (value >> 8) as u8);
        let colour = |index: u8| [0, 1, 2].map(|c| high_byte(c * colours + usize::from(index)));
        self.image(3, self.small_values(bytes, bits)?.flat_map(colour).collect())
    }

    /// Values of at most 8 bits. Rows begin at whole bytes.
    fn small_values<'a>(&self, bytes: &'a [u8], bits: u8) -> Option<impl Iterator<Item = u8> + use<'a>> {
        let (width, height, row_bytes, bits) = (self.width, self.height, self.row_bytes, usize::from(bits));
        let is_whole = matches!(bits, 1 | 2 | 4 | 8)
            && row_bytes >= (width * bits).div_ceil(8)
            && bytes.len() >= row_bytes * height;
        let value = move |row: &'a [u8], x: usize| {
            let bit = x * bits;
            ((u32::from(row[bit / 8]) >> (8 - bits - bit % 8)) & ((1 << bits) - 1)) as u8
        };
        let rows = is_whole.then(|| bytes.chunks_exact(row_bytes.max(1)).take(height))?;
        Some(rows.flat_map(move |row| (0..width).map(move |x| value(row, x))))
    }

    /// Pixels of `count` samples of 8 or 16 bits, converted one by one.
    fn colors<const N: usize>(
        &self,
        samples: &DecodingResult,
        count: usize,
        convert: impl Fn(&[u8]) -> [u8; N],
    ) -> Option<Image> {
        let bytes = match samples {
            DecodingResult::U8(bytes) => Cow::Borrowed(bytes),
            DecodingResult::U16(words) => Cow::Owned(words.iter().map(|word| (word >> 8) as u8).collect()),
            _ => return None,
        };
        let pixels = self.width * self.height;
        let converted = match self.planes {
            1 => bytes.chunks_exact(count).flat_map(convert).collect(),
            planes if planes == count && bytes.len() == count * pixels => {
                let pixel =
                    |i: usize| -> Vec<u8> { (0..count).map(|plane| bytes[plane * pixels + i]).collect() };
                (0..pixels).flat_map(|i| convert(&pixel(i))).collect()
            }
            _ => return None,
        };
        self.image(N, converted)
    }

    /// RGB of RGBA, whose colours may be multiplied by alpha.
    fn rgba(&self, samples: &DecodingResult) -> Option<Image> {
        let divided = |pixel: &[u8]| {
            let colour = |value: u8| match (self.is_premultiplied, pixel[3]) {
                (false, _) | (_, 255) => value,
                (true, 0) => 0,
                (true, alpha) => (u32::from(value) * 255 / u32::from(alpha)).min(255) as u8,
            };
            [pixel[0], pixel[1], pixel[2]].map(colour)
        };
        self.colors(samples, 4, divided)
    }

    fn image(&self, channels: usize, pixels: Vec<u8>) -> Option<Image> {
        let is_whole = pixels.len() == self.height * self.width * channels;
        is_whole.then_some(Image { size: [self.height, self.width, channels], pixels })
    }
}

/// True for one sample of 16 bits per pixel; `None` if the header is damaged.
pub fn is_gray16(bytes: &[u8]) -> Option<bool> {
    let samples = field(bytes, SAMPLES_PER_PIXEL).map_or(1, |(samples, _)| samples);
    let (bits, _) = field(bytes, BITS_PER_SAMPLE)?;
    let (photometric, _) = field(bytes, PHOTOMETRIC)?;
    Some((samples, bits) == (1, 16) && photometric <= BLACK_IS_ZERO)
}

/// A 16-bit value in the first directory and its position; `None` if it is absent, or the file is a BigTIFF or damaged.
fn field(bytes: &[u8], tag: u16) -> Option<(u16, usize)> {
    let is_little = bytes.starts_with(b"II*\0");
    if !is_little && !bytes.starts_with(b"MM\0*") {
        return None;
    }
    let short = |at: usize| {
        let pair = bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if is_little { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) })
    };
    let [low, high] = if is_little { [4, 6] } else { [6, 4] };
    let directory = usize::from(short(high)?) << 16 | usize::from(short(low)?);
    let mut entries = (0..usize::from(short(directory)?)).map(|i| directory + 2 + 12 * i);
    let entry = entries.find(|entry| short(*entry) == Some(tag))?;
    Some((short(entry + 8)?, entry + 8))
}

/// A copy of the file with another 16-bit value at a position.
fn with_short(bytes: &[u8], at: usize, value: u16) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    let stored = if bytes.starts_with(b"II") { value.to_le_bytes() } else { value.to_be_bytes() };
    copy[at..at + 2].copy_from_slice(&stored);
    copy
}
