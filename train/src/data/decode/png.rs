//! PNG: all colour types and depths.
use super::{Gray16, MAX_BYTES, damage, decoded_size, is_eof};
use crate::data::Image;
use png::{BitDepth, ColorType, DecodingError, Limits, Transformations};
use std::io::Cursor;

/// Decodes a PNG; also returns its EXIF data.
pub fn decode(bytes: &[u8], gray16: Gray16) -> Result<(Image, Option<Vec<u8>>), String> {
    let text = |e: DecodingError| damage("PNG", matches!(&e, DecodingError::IoError(io) if is_eof(io)), &e);
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: MAX_BYTES });
    // Both may expand to many times the size of the file.
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(text)?;
    // Of other 16-bit values the decoder takes the high byte, as Pillow does.
    let is_gray16 = header.color_type == ColorType::Grayscale && header.bit_depth == BitDepth::Sixteen;
    decoder.set_transformations(match is_gray16 {
        true => Transformations::IDENTITY,
        false => Transformations::normalize_to_color8(),
    });
    let mut reader = decoder.read_info().map_err(text)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let channels = if is_gray16 { 2 } else { reader.output_color_type().0.samples() };
    let mut pixels = vec![0; decoded_size(width, height, channels)?];
    if reader.output_buffer_size() != Some(pixels.len()) {
        return Err("the PNG's rows have another length than expected".into());
    }
    reader.next_frame(&mut pixels).map_err(text)?;
    let exif = reader.info().exif_metadata.as_ref().map(|exif| exif.to_vec());
    if is_gray16 {
        let convert = |word: &[u8]| gray16.convert(u16::from_be_bytes([word[0], word[1]]));
        let grey = pixels.chunks_exact(2).map(convert).collect();
        return Ok((Image::from_decoded(width, height, 1, grey)?, exif));
    }
    Ok((Image::from_decoded(width, height, channels, pixels)?, exif))
}
