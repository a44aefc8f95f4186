//! JPEG. Baseline and progressive files in grey and YCbCr, whole or a region of them, are decoded here; RGB and CMYK files by zune-jpeg, as
//! well as damaged files, whose defect it describes.
mod ac_code;
mod baseline;
mod block_plane;
mod header;
mod huffman;
mod progressive;
mod region;
mod repair;
mod scan;

pub use header::Jpeg;
pub use repair::JpegRepair;

use super::cmyk::cmyk_to_rgb;
use super::{MAX_PIXELS, damage, decoded_size};
use crate::data::Image;
use fornax_engine::ImageBox;
use zune_core::bytestream::{ZByteIoError, ZCursor};
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

/// JPEG marker at the end of the image, which other data may follow.
const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];

/// Decodes a JPEG: grey, YCbCr, RGB, CMYK or YCCK. Also returns the defect if it was repaired.
pub fn decode(bytes: &[u8]) -> Result<(Image, Option<JpegRepair>), String> {
    match repair::repaired_header(bytes) {
        Some((clean, repair)) => decode_clean(&clean).map(|(image, missing)| (image, repair.or(missing))),
        None => decode_clean(bytes),
    }
}

/// Decodes a JPEG with a valid header.
fn decode_clean(bytes: &[u8]) -> Result<(Image, Option<JpegRepair>), String> {
    // zune-jpeg accepts a file of which only the last few blocks are missing.
    if scan(bytes).is_some_and(|scan| !has_end_of_image(scan)) {
        return Err("the JPEG is truncated".into());
    }
    if let Some(jpeg) = Jpeg::read(bytes) {
        let [height, width] = jpeg.size;
        decoded_size(width, height, jpeg.components.len())?;
        let whole = ImageBox { top: 0, bottom: height as u32, left: 0, right: width as u32 };
        if let Some(decoded) = decode_region(&jpeg, whole) {
            return Ok(decoded);
        }
        if jpeg.is_progressive {
            // zune-jpeg accepts a file without some of its scans.
            let damage = "the JPEG is damaged: its progressive scans are invalid";
            return Err(decode_any(bytes).err().unwrap_or_else(|| damage.into()));
        }
    }
    decode_any(bytes).map(|image| (image, None))
}

/// Decodes a region of a JPEG. `None` if the data are damaged or truncated.
pub fn decode_region(jpeg: &Jpeg<'_>, region: ImageBox) -> Option<(Image, Option<JpegRepair>)> {
    let size = [region.height(), region.width(), jpeg.components.len()];
    let (pixels, repair) = match jpeg.is_progressive {
        true => progressive::decode(jpeg, region)?,
        false => (baseline::decode(jpeg, region)?, None),
    };
    Some((Image { size, pixels }, repair))
}

/// Decodes a JPEG of any kind.
fn decode_any(bytes: &[u8]) -> Result<Image, String> {
    let text = |e: DecodeErrors| {
        let not_enough = |io: &ZByteIoError| matches!(io, ZByteIoError::NotEnoughBytes(..));
        let truncated = match &e {
            DecodeErrors::ExhaustedData => true,
            DecodeErrors::IoErrors(io) if not_enough(io) => true,
            _ => !has_end_of_image(bytes),
        };
        damage("JPEG", truncated, &e)
    };
    // Strict: a truncated file is an error; otherwise the missing part would be grey.
    let options =
        DecoderOptions::new_fast().set_max_width(MAX_PIXELS).set_max_height(MAX_PIXELS).set_strict_mode(true);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(text)?;
    let info = decoder.info().ok_or("the JPEG has no size")?;
    let (colours, channels) = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => (ColorSpace::Luma, 1),
        // As stored: converted below as libjpeg and Pillow do.
        Some(stored @ (ColorSpace::CMYK | ColorSpace::YCCK)) => (stored, 4),
        _ => (ColorSpace::RGB, 3),
    };
    let (width, height) = (usize::from(info.width), usize::from(info.height));
    let mut pixels = vec![0; decoded_size(width, height, channels)?];
    decoder.set_options(options.jpeg_set_out_colorspace(colours));
    decoder.decode_into(&mut pixels).map_err(text)?;
    if channels < 4 {
        return Image::from_decoded(width, height, channels, pixels);
    }
    let rgb = match colours {
        ColorSpace::YCCK => rgb_of_cmyk(&pixels, |[y, cb, cr]| ycc_to_rgb(y, cb, cr)),
        _ => rgb_of_cmyk(&pixels, |stored| stored.map(|value| 255 - value)),
    };
    Image::from_decoded(width, height, 3, rgb)
}

/// Converts pixels of four components to RGB. CMYK is stored inverted, as Adobe does; `ink` gives cyan, magenta and yellow of the first
/// three components.
fn rgb_of_cmyk(pixels: &[u8], ink: impl Fn([u8; 3]) -> [u8; 3]) -> Vec<u8> {
    let convert = |pixel: &[u8]| cmyk_to_rgb(ink([pixel[0], pixel[1], pixel[2]]), pixel[3]);
    pixels.chunks_exact(4).flat_map(convert).collect()
}

/// RGB of YCbCr in libjpeg's fixed-point arithmetic with 16 fractional bits.
pub fn ycc_to_rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let scaled = |value: i32| (value + (1 << 15)) >> 16;
    let rgb = [y + scaled(91_881 * cr), y + scaled(-22_554 * cb - 46_802 * cr), y + scaled(116_130 * cb)];
    rgb.map(|value| value.clamp(0, 255) as u8)
}

/// True if the data from the first scan on have the end of the image.
fn has_end_of_image(scan: &[u8]) -> bool {
    // From the end, where it nearly always is.
    scan.windows(2).rev().any(|pair| pair == END_OF_IMAGE)
}

/// The EXIF data of a JPEG, if it has any: the contents of its APP1 segment.
pub fn exif(bytes: &[u8]) -> Option<Vec<u8>> {
    let repaired = repair::repaired_header(bytes);
    let bytes = repaired.as_ref().map_or(bytes, |(clean, _)| clean);
    let mut segments = Segments(bytes.get(2..)?).take_while(|(marker, _)| *marker != SCAN);
    let exif = segments.find(|(marker, segment)| *marker == 0xe1 && segment.starts_with(b"Exif\0\0"))?;
    Some(exif.1[6..].to_vec())
}

/// The file from the first scan's entropy-coded data on; `None` if the segments before it are damaged or truncated.
fn scan(bytes: &[u8]) -> Option<&[u8]> {
    let mut segments = Segments(bytes.get(2..)?);
    segments.find(|(marker, _)| *marker == SCAN)?;
    Some(segments.0)
}

/// Marker of the header of a scan, after which the entropy-coded data begin.
const SCAN: u8 = 0xda;

/// Iterator over the marker and the contents of each segment, up to the header of a scan.
struct Segments<'a>(&'a [u8]);

impl Segments<'_> {
    /// Skips padding before a marker.
    fn skip_padding(&mut self) {
        while let [0xff, 0xff, ..] = self.0 {
            self.0 = &self.0[1..];
        }
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        self.skip_padding();
        let [0xff, marker, high, low, ..] = *self.0 else { return None };
        let end = 2 + usize::from(u16::from_be_bytes([high, low]));
        let segment = self.0.get(4..end)?;
        self.0 = &self.0[end..];
        Some((marker, segment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The decoders themselves, without the guard that makes a panic an error of the file.
    #[test]
    fn mutated_files_do_not_panic() {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/decoders");
        let mut state = 5u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let (mut images, mut errors, mut declined) = (0, 0, 0);
        let names = ["444", "422", "420", "420_restarts", "422_optimised", "grey"];
        for name in
            ["baseline", "progressive"].iter().flat_map(|kind| names.map(|name| format!("{kind}_{name}.jpg")))
        {
            let good = std::fs::read(cases.join(name)).expect("reads");
            for _ in 0..500 {
                let mut bad = good.clone();
                for _ in 0..=random(3) {
                    let at = random(bad.len());
                    match random(4) {
                        0 => bad[at] ^= 1 << random(8),
                        1 => bad[at] = 0xff,
                        2 => bad[at] = random(256) as u8,
                        _ => {
                            bad.remove(at);
                        }
                    }
                }
                let Some(jpeg) = Jpeg::read(&bad) else {
                    declined += 1;
                    continue;
                };
                let [h, w] = jpeg.size;
                let (top, left) = (random(h.min(999)), random(w.min(999)));
                let [top, bottom, left, right] =
                    [top, top + 1 + random((h - top).min(99)), left, left + 1 + random((w - left).min(99))];
                let [t, b, l, r] = [top, bottom, left, right].map(|side| side as u32);
                match decode_region(&jpeg, ImageBox { top: t, bottom: b, left: l, right: r }) {
                    Some((image, _)) => {
                        assert_eq!(
                            image.pixels.len(),
                            (bottom - top) * (right - left) * jpeg.components.len()
                        );
                        images += 1;
                    }
                    None => errors += 1,
                }
            }
        }
        assert!(images > 600 && errors > 200 && declined > 600, "{images}, {errors}, {declined}");
    }
}
