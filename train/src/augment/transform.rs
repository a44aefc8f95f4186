//! Image transforms.
use crate::data::Image;
use crate::data::decode::DecodeOptions;
use fornax_engine::random::RngStream;

/// Transform of an image into images of the network's input size, u8. The result is a pure function of the image and the random
/// numbers of the sample.
pub trait ImageTransform: Send + Sync {
    /// Height and width of the results.
    fn output_size(&self) -> [usize; 2];

    /// Number of results per image: 1, the number of augmentation splits, or the number of views of test-time augmentation.
    fn views(&self) -> usize {
        1
    }

    /// Transforms an image into [`views`](ImageTransform::views) images with the channels of the input. The error says why the image
    /// cannot be transformed.
    fn apply(&self, image: &Image, rng: &mut RngStream) -> Result<Vec<Image>, String>;

    /// Decodes and transforms an image file, with the result of decoding and [`apply`](ImageTransform::apply). A transform that reads only a
    /// part of the image can decode less.
    fn apply_encoded(
        &self,
        bytes: &[u8],
        options: &DecodeOptions,
        rng: &mut RngStream,
    ) -> Result<Vec<Image>, String> {
        self.apply(&Image::decode_with(bytes, options)?, rng)
    }
}
