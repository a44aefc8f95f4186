//! QOI: RGB and RGBA.
use super::{MAX_PIXELS, damage, decoded_size};
use crate::data::Image;
use zune_core::bytestream::ZCursor;
use zune_core::options::DecoderOptions;
use zune_qoi::QoiDecoder;
use zune_qoi::QoiErrors;

/// Decodes a QOI file.
pub fn decode(bytes: &[u8]) -> Result<Image, String> {
    let text = |e: QoiErrors| {
        let truncated = matches!(&e, QoiErrors::IoErrors(_) | QoiErrors::InsufficientData(..));
        damage("QOI", truncated, &format!("{e:?}").trim())
    };
    // Strict: the end mark must follow the pixels, so a truncated file is an error.
    let options =
        DecoderOptions::new_safe().set_max_width(MAX_PIXELS).set_max_height(MAX_PIXELS).set_strict_mode(true);
    let mut decoder = QoiDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(text)?;
    let (width, height) = decoder.dimensions().ok_or("the QOI has no size")?;
    let channels = decoder.colorspace().ok_or("the QOI has no channels")?.num_components();
    let mut pixels = vec![0; decoded_size(width, height, channels)?];
    decoder.decode_into(&mut pixels).map_err(text)?;
    Image::from_decoded(width, height, channels, pixels)
}
