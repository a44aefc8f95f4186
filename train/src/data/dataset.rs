//! Datasets: labelled images by index.
use super::image::Image;
use crate::Result;
use fornax_engine::random::RngStream;
use std::borrow::Cow;

/// Labelled image dataset, one split. It knows nothing of epochs, batches, ranks or threads: loader workers read samples by index, in any
/// order and at the same time.
pub trait Dataset: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// True if there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Class names, in the order of the logits.
    fn classes(&self) -> &[String];

    /// Class index of a sample, below 2^31. It is read without decoding the image.
    fn target(&self, index: usize) -> u32;

    /// Image of a sample: the bytes of an image file, or a decoded image. Errors if it cannot be read.
    fn image(&self, index: usize) -> Result<SampleImage<'_>>;

    /// First bytes, at most `limit`, and sizes of the image files of a sample, which are checked before training; none for decoded images.
    /// Errors if a file cannot be read.
    fn image_heads(&self, _index: usize, _limit: usize) -> Result<Vec<ImageHead<'_>>> {
        Ok(vec![])
    }

    /// Location of a sample for messages: a path, or an archive and the member's name.
    fn location(&self, index: usize) -> String;

    /// CRC32C of the names and labels of the samples, and of images that are not files: a resumed run must see the same samples. The location of
    /// the dataset has no part in it. Computed without decoding images.
    fn crc32c(&self) -> u32;

    /// Images per sample: 1, or the number of frames in a video clip.
    fn clip_len(&self) -> usize {
        1
    }

    /// All images of a sample; a video samples its frames with `rng` in training, and at fixed positions without.
    fn clip(&self, index: usize, _rng: Option<&mut RngStream>) -> Result<Vec<SampleImage<'_>>> {
        Ok(vec![self.image(index)?])
    }
}

/// First bytes of an image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageHead<'a> {
    /// The bytes.
    pub bytes: Cow<'a, [u8]>,
    /// Size of the whole file in bytes.
    pub file_size: u64,
}

/// Image of a sample.
#[derive(Clone, Debug, PartialEq)]
pub enum SampleImage<'a> {
    /// Bytes of an image file.
    Encoded(Cow<'a, [u8]>),
    /// Decoded image.
    Decoded(Image),
}
