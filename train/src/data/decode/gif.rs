//! GIF: the first frame.
use super::{MAX_BYTES, damage, decoded_size, is_eof};
use crate::data::Image;
use gif::{ColorOutput, DecodingError, MemoryLimit};
use std::io::Cursor;

/// Decodes the first frame. Around a frame that is smaller than the canvas is the transparent colour, or the first colour without one.
pub fn decode(bytes: &[u8]) -> Result<Image, String> {
    let text = |e: DecodingError| {
        let truncated = matches!(&e, DecodingError::Io(io) if is_eof(io));
        damage("GIF", truncated, &e)
    };
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Bytes(
        std::num::NonZeroU64::new(MAX_BYTES as u64).expect("the limit is above 0"),
    ));
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(text)?;
    let screen = [usize::from(decoder.width()), usize::from(decoder.height())];
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let frame = decoder.read_next_frame().map_err(text)?.ok_or("the GIF has no frame")?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (w, h) = (usize::from(frame.width), usize::from(frame.height));
    // As in Pillow, a frame that exceeds the canvas enlarges it.
    let (width, height) = (screen[0].max(left + w), screen[1].max(top + h));
    let mut pixels = vec![0; decoded_size(width, height, 3)?];
    let palette = frame.palette.as_deref().or(global.as_deref()).unwrap_or(&[]);
    // A colour beyond the palette is grey, as in Pillow.
    let colour = |index: u8| {
        let at = 3 * usize::from(index);
        palette.get(at..at + 3).map_or([index; 3], |c| [c[0], c[1], c[2]])
    };
    let around = colour(frame.transparent.unwrap_or(0));
    pixels.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&around));
    if frame.buffer.len() != w * h {
        return Err("the GIF is truncated".into());
    }
    for (y, row) in frame.buffer.chunks_exact(w.max(1)).enumerate() {
        let start = 3 * ((top + y) * width + left);
        for (pixel, index) in pixels[start..].chunks_exact_mut(3).zip(row) {
            pixel.copy_from_slice(&colour(*index));
        }
    }
    Image::from_decoded(width, height, 3, pixels)
}
