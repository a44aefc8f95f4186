//! BMP: palettes, RGB and bit fields; run-length encoded files are decoded by zune-bmp.
use super::{MAX_PIXELS, damage, decoded_size};
use crate::data::Image;
use zune_bmp::{BmpDecoder, BmpDecoderErrors};
use zune_core::bytestream::ZCursor;
use zune_core::options::DecoderOptions;

/// Decodes a BMP.
pub fn decode(bytes: &[u8]) -> Result<Image, String> {
    let header = BmpHeader::read(bytes).ok_or(TRUNCATED)??;
    match header.compression {
        RLE8 | RLE4 if header.has_end_of_bitmap(bytes) => decode_runs(bytes),
        RLE8 | RLE4 => Err(TRUNCATED.into()),
        _ => header.decode(bytes),
    }
}

/// Checks the header.
pub fn check_header(bytes: &[u8]) -> Result<(), String> {
    let header = BmpHeader::read(bytes).ok_or(TRUNCATED)??;
    decoded_size(header.width, header.height, 3).map(drop)
}

const TRUNCATED: &str = "the BMP is truncated";

/// Values of the compression field.
const RGB: u32 = 0;
const RLE8: u32 = 1;
const RLE4: u32 = 2;
const BIT_FIELDS: u32 = 3;

/// Masks of red, green and blue of files without bit fields.
const MASKS_16: [u32; 3] = [0x7c00, 0x3e0, 0x1f];
const MASKS_24: [u32; 3] = [0xff_0000, 0xff00, 0xff];

/// Decodes a run-length encoded BMP.
fn decode_runs(bytes: &[u8]) -> Result<Image, String> {
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
        return Err("the BMP's rows have another length than expected".into());
    }
    decoder.decode_into(&mut pixels).map_err(text)?;
    Image::from_decoded(width, height, channels, pixels)
}

/// Header of a BMP.
struct BmpHeader {
    /// Position of the pixels.
    pixels: usize,
    /// Position of the palette, and the bytes of a colour in it.
    palette: [usize; 2],
    colours: usize,
    width: usize,
    height: usize,
    /// The first row is at the top.
    top_down: bool,
    /// Bits per pixel.
    depth: usize,
    compression: u32,
    /// Bits of red, green and blue in a pixel without palette.
    masks: [u32; 3],
}

impl BmpHeader {
    /// Reads the header. `None` if it is truncated.
    fn read(bytes: &[u8]) -> Option<Result<BmpHeader, String>> {
        let short = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let mut pixels = word(10)? as usize;
        let size = word(14)? as usize;
        let (width, height, depth, compression, colours);
        match size {
            // OS/2.
            12 => {
                (width, height) = (i32::from(short(18)?), i32::from(short(20)?));
                (depth, compression, colours) = (usize::from(short(24)?), RGB, 0);
            }
            40.. => {
                (width, height) = (word(18)?.cast_signed(), word(22)?.cast_signed());
                (depth, compression, colours) = (usize::from(short(28)?), word(30)?, word(46)? as usize);
            }
            _ => return Some(Err(format!("the BMP's header of {size} bytes is of no known kind"))),
        }
        let Ok(width) = usize::try_from(width) else {
            return Some(Err(format!("the BMP is damaged: its width is {width}")));
        };
        let mut masks = if depth == 16 { MASKS_16 } else { MASKS_24 };
        let supported = match compression {
            RGB => matches!(depth, 1 | 2 | 4 | 8 | 16 | 24 | 32),
            RLE8 => depth == 8,
            RLE4 => depth == 4,
            BIT_FIELDS => {
                // After a header of 40 bytes, or in a longer one.
                let given = [word(54)?, word(58)?, word(62)?];
                masks = if given == [0; 3] { masks } else { given };
                matches!(depth, 16 | 24 | 32) && masks.iter().all(|mask| is_contiguous(*mask))
            }
            _ => false,
        };
        if !supported {
            let why = "is not supported: use RGB, bit fields or run lengths";
            return Some(Err(format!(
                "the BMP's compression {compression} with {depth} bits per pixel {why}"
            )));
        }
        let entry = if size == 12 { 3 } else { 4 };
        let colours = if colours == 0 && depth <= 8 { 1 << depth } else { colours };
        // As in Pillow: some writers omit the palette from the offset.
        if depth <= 8 && pixels == 14 + size {
            pixels = pixels.saturating_add(entry * colours);
        }
        Some(Ok(BmpHeader {
            pixels,
            palette: [14 + size, entry],
            colours,
            width,
            height: height.unsigned_abs() as usize,
            top_down: height < 0,
            depth,
            compression,
            masks,
        }))
    }

    /// Decodes uncompressed pixels.
    fn decode(&self, bytes: &[u8]) -> Result<Image, String> {
        let &BmpHeader { width, height, depth, .. } = self;
        let mut rgb = Vec::with_capacity(decoded_size(width, height, 3)?);
        // Rows are padded to whole words; as in Pillow, the padding of the last one may be missing.
        let (stride, row_bytes) = ((width * depth).div_ceil(32) * 4, (width * depth).div_ceil(8));
        let rows = bytes.get(self.pixels..).and_then(|rest| rest.get(..stride * (height - 1) + row_bytes));
        let rows = rows.ok_or(TRUNCATED)?;
        let palette = self.palette(bytes);
        let fields = self.masks.map(BitField::new);
        for y in 0..height {
            let row = if self.top_down { y } else { height - 1 - y };
            let row = &rows[row * stride..][..row_bytes];
            if depth <= 8 {
                let index = |x: usize| {
                    let bit = x * depth;
                    let shifted = u32::from(row[bit / 8]) >> (8 - depth - bit % 8);
                    shifted as usize & ((1 << depth) - 1)
                };
                rgb.extend((0..width).flat_map(|x| palette[index(x)]));
            } else {
                let pixels = row.chunks_exact(depth / 8);
                rgb.extend(pixels.flat_map(|pixel| {
                    let word = pixel.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
                    fields.map(|field| field.byte(word))
                }));
            }
        }
        Image::from_decoded(width, height, 3, rgb)
    }

    /// All colours that a pixel can have; a colour beyond the palette is black.
    fn palette(&self, bytes: &[u8]) -> Vec<[u8; 3]> {
        let [first, entry] = self.palette;
        let colour = |index: usize| {
            let at = first + entry * index;
            let stored = bytes.get(at..at + 3).filter(|_| index < self.colours && at + entry <= self.pixels);
            // Stored as blue, green, red.
            stored.map_or([0; 3], |c| [c[2], c[1], c[0]])
        };
        if self.depth <= 8 { (0..1 << self.depth).map(colour).collect() } else { vec![] }
    }

    /// True if run-length encoded pixels have their end mark, so that the file is complete.
    fn has_end_of_bitmap(&self, bytes: &[u8]) -> bool {
        let mut rest = bytes.get(self.pixels..).unwrap_or_default();
        loop {
            let [count, value, ..] = *rest else { return false };
            let skipped = match (count, value) {
                (0, 1) => return true,
                // A move by two bytes.
                (0, 2) => 4,
                // Pixels as they are, padded to pairs of bytes.
                (0, pixels @ 3..) => 2 + (usize::from(pixels) * self.depth).div_ceil(16) * 2,
                _ => 2,
            };
            rest = rest.get(skipped..).unwrap_or_default();
        }
    }
}

/// Bits of a colour in a pixel.
#[derive(Clone, Copy)]
struct BitField {
    mask: u32,
    shift: u32,
}

impl BitField {
    fn new(mask: u32) -> BitField {
        BitField { mask, shift: mask.trailing_zeros().min(31) }
    }

    /// The colour of a pixel, scaled to 0..255 and rounded down as in Pillow.
    fn byte(self, pixel: u32) -> u8 {
        let (value, largest) = ((pixel & self.mask) >> self.shift, self.mask >> self.shift);
        match largest {
            0 => 0,
            255 => value as u8,
            _ => (u64::from(value) * 255 / u64::from(largest)) as u8,
        }
    }
}

/// True if the bits of a mask are adjacent.
fn is_contiguous(mask: u32) -> bool {
    let bits = mask >> mask.trailing_zeros().min(31);
    bits & bits.wrapping_add(1) == 0
}
