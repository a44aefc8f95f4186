//! Decoding of parts of image files.
use super::{DecodeOptions, MAX_FILE_BYTES, decoded_size, guarded, jpeg};
use crate::data::Image;
use fornax_engine::ImageBox;

/// Decoder of a region of an image file, for files that support it: baseline and progressive JPEG. The pixels are those of the whole image.
pub struct RegionDecoder<'a> {
    jpeg: jpeg::Jpeg<'a>,
    channels: usize,
}

impl<'a> RegionDecoder<'a> {
    /// Reads the header. `None` if the file has to be decoded whole, or cannot be decoded.
    pub fn open(bytes: &'a [u8], options: &DecodeOptions) -> Option<RegionDecoder<'a>> {
        let turned = options.exif_orientation && jpeg::exif(bytes).is_some();
        if bytes.len() as u64 > MAX_FILE_BYTES || turned {
            return None;
        }
        let jpeg = jpeg::Jpeg::read(bytes)?;
        let [height, width] = jpeg.size;
        decoded_size(width, height, jpeg.components.len()).ok()?;
        Some(RegionDecoder { jpeg, channels: options.channels })
    }

    /// Height, width and channels of the whole image.
    pub fn size(&self) -> [usize; 3] {
        [self.jpeg.size[0], self.jpeg.size[1], self.channels]
    }

    /// Decodes a region, which must not be empty and lie inside of the image. The data below it are not read, so damage there goes
    /// unnoticed. `None` if the data above or in it are damaged: the whole file has to be decoded, which describes the damage.
    pub fn decode(&self, region: ImageBox) -> Option<Image> {
        let [height, width, _] = self.size();
        let inside = region.top < region.bottom
            && region.left < region.right
            && region.bottom as usize <= height
            && region.right as usize <= width;
        assert!(inside, "{region:?} is not inside of the image's {height}x{width} pixels");
        let decode = || jpeg::decode_region(&self.jpeg, region).ok_or_else(String::new);
        let (image, _) = guarded(decode).ok()?;
        Some(image.with_channels(self.channels))
    }
}
