//! BMP: palettes, RGB and bit fields, plain or run-length encoded.
use super::{MAX_PIXELS, damage, decoded_size};
use crate::data::Image;
use zune_bmp::{BmpDecoder, BmpDecoderErrors};
use zune_core::bytestream::ZCursor;
use zune_core::options::DecoderOptions;

/// Decodes a BMP.
pub fn decode(bytes: &[u8]) -> Result<Image, String> {
    if let Some(header) = PaletteHeader::read(bytes) {
        return header.decode(bytes);
    }
    let text = |e: BmpDecoderErrors| {
        let truncated = matches!(&e, BmpDecoderErrors::IoErrors(_));
        damage("BMP", truncated, &format!("{e:?}").trim())
    };
    let options =
        DecoderOptions::new_safe().set_max_width(MAX_PIXELS).set_max_height(MAX_PIXELS).set_strict_mode(true);
    let mut decoder = BmpDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(text)?;
    let (width, height) = decoder.dimensions().ok_or("the BMP has no size")?;
    let channels = decoder.colorspace().ok_or("the BMP has no colours")?.num_components();
    let mut pixels = vec![0; decoded_size(width, height, channels)?];
    if decoder.output_buf_size() != Some(pixels.len()) {
        return Err("the BMP's rows have another length than announced".into());
    }
    decoder.decode_into(&mut pixels).map_err(text)?;
    Image::from_decoded(width, height, channels, pixels)
}

/// Header of an uncompressed BMP with 1, 2 or 4 bits per pixel, whose rows zune-bmp 0.5 reads wrongly.
struct PaletteHeader {
    pixels: usize,
    palette: usize,
    width: usize,
    height: i32,
    depth: usize,
}

impl PaletteHeader {
    /// The header, if the file is such a BMP.
    fn read(bytes: &[u8]) -> Option<PaletteHeader> {
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let (size, compression) = (word(14)?, word(30)?);
        let depth = usize::from(u16::from_le_bytes(bytes.get(28..30)?.try_into().ok()?));
        let header = PaletteHeader {
            pixels: word(10)? as usize,
            palette: 14 + size as usize,
            width: usize::try_from(word(18)?.cast_signed()).ok()?,
            height: word(22)?.cast_signed(),
            depth,
        };
        (size >= 40 && compression == 0 && [1, 2, 4].contains(&depth)).then_some(header)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Image, String> {
        let (width, height) = (self.width, self.height.unsigned_abs() as usize);
        let mut rgb = Vec::with_capacity(decoded_size(width, height, 3)?);
        // Rows are padded to whole words.
        let stride = (width * self.depth).div_ceil(32) * 4;
        let rows = bytes.get(self.pixels..).and_then(|rest| rest.get(..stride * height));
        let rows = rows.ok_or("the BMP is truncated")?;
        let colour = |index: usize| {
            let at = self.palette + 4 * index;
            // Blue, green, red; a colour beyond the palette is black.
            bytes.get(at..at + 3).filter(|_| at + 4 <= self.pixels).map_or([0; 3], |c| [c[2], c[1], c[0]])
        };
        let palette: Vec<[u8; 3]> = (0..1 << self.depth).map(colour).collect();
        for y in 0..height {
            // The first row is at the bottom, unless the height is negative.
            let row = if self.height > 0 { height - 1 - y } else { y };
            let row = &rows[row * stride..][..stride];
            for x in 0..width {
                let bit = x * self.depth;
                let index = row[bit / 8] >> (8 - self.depth - bit % 8) & ((1 << self.depth) - 1);
                rgb.extend(palette[usize::from(index)]);
            }
        }
        Image::from_decoded(width, height, 3, rgb)
    }
}
