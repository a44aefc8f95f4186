//! Augmentation of whole batches: mixing and erasing.
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{ImageChange, Tensor};

/// Augmentation of whole batches. It computes what happens to each image, from the batch's number, samples and targets alone; the pixels
/// are changed later by [`BatchPreparation`](super::BatchPreparation).
pub trait BatchTransform: Send + Sync {
    /// Maximum number of erased boxes per image.
    fn max_erase_boxes(&self) -> usize;

    /// Changes of a batch. The error says why the batch cannot be augmented.
    fn changes(&self, batch: &GlobalBatch) -> Result<BatchChanges, String>;
}

/// A batch of all ranks together, as input of a [`BatchTransform`]: its result does not depend on the number of ranks.
#[derive(Clone, Copy, Debug)]
pub struct GlobalBatch<'a> {
    /// Seed of the run.
    pub seed: u64,
    /// Epoch.
    pub epoch: u32,
    /// Index of the batch in the epoch.
    pub index: usize,
    /// Number of each sample, unique in the epoch: its random numbers depend on it.
    pub samples: &'a [u64],
    /// Class index of each sample.
    pub targets: &'a [i64],
    /// Number of augmentation splits. Image `i` of split `s` is image `s * n + i` of `n * views`.
    pub views: usize,
    /// Height and width of the images.
    pub image_size: [usize; 2],
}

impl GlobalBatch<'_> {
    /// Random numbers of the whole batch for a purpose.
    pub fn rng(&self, purpose: &str) -> RngStream {
        RngStream::new(RngKey::new(self.seed, purpose), self.epoch, self.index as u64)
    }

    /// Random numbers of sample `i` for a purpose.
    pub fn sample_rng(&self, purpose: &str, i: usize) -> RngStream {
        RngStream::new(RngKey::new(self.seed, purpose), self.epoch, self.samples[i])
    }
}

/// Result of a [`BatchTransform`].
#[derive(Clone, Debug)]
pub struct BatchChanges {
    /// Change of each image, or fewer for a smaller batch (timm's mixup mode `half`): change `i` makes result `i` of image `i`. The
    /// loader replaces the sample numbers.
    pub changes: Vec<ImageChange>,
    /// Class probabilities of each result, f32 `[results, classes]`; `None` to keep class indices.
    pub target: Option<Tensor>,
}
