//! WebP: lossy, lossless and animated.
use super::{MAX_BYTES, damage, decoded_size, is_eof};
use crate::data::Image;
use std::io::Cursor;

/// Decodes a WebP, or the first frame of an animation; also returns its EXIF data.
pub fn decode(bytes: &[u8]) -> Result<(Image, Option<Vec<u8>>), String> {
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
    let exif = decoder.exif_metadata().ok().flatten();
    Ok((Image::from_decoded(width, height, channels, pixels)?, exif))
}
