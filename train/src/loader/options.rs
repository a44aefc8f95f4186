//! Options of a loader.
use super::{BatchPreparation, BatchTransform};
use crate::data::BadImages;
use crate::data::decode::Gray16;
use fornax_engine::Device;
use std::sync::Arc;
use std::time::Duration;

/// Options of a [`Loader`](super::Loader).
#[derive(Clone)]
pub struct LoaderOptions {
    /// Training: samples are shuffled and augmented, and the last incomplete batch is dropped. Otherwise evaluation: every sample once,
    /// in order, with a smaller last batch.
    pub training: bool,
    /// Samples per batch, over all ranks.
    pub batch_size: usize,
    /// Channels of the images: 1 or 3.
    pub channels: usize,
    /// Rotates and mirrors images as their EXIF orientation says.
    pub exif_orientation: bool,
    /// Conversion of 16-bit grey images to 8 bits.
    pub gray16: Gray16,
    /// Seed of shuffling and augmentation.
    pub seed: u64,
    /// Rank of this process. It loads its part of every batch.
    pub rank: usize,
    /// Number of ranks.
    pub world: usize,
    /// Length of a training epoch in passes over the dataset, at least 1 (timm's `--epoch-repeats`).
    pub epoch_repeats: f64,
    /// Batches of a training epoch, which passes over the dataset as often as they need; `None`: those of `epoch_repeats`.
    pub fixed_batches: Option<usize>,
    /// Repeated augmentation (Hoffer et al., 2020; timm's `--aug-repeats`): each sample occurs this many times in succession, so that an
    /// epoch of unchanged length has fewer different samples.
    pub repeats: usize,
    /// Worker threads; 0 loads on the thread that takes the batches. Results do not depend on it.
    pub workers: usize,
    /// Batches loaded ahead, at least 1. Results do not depend on it.
    pub prefetch: usize,
    /// Limit of the time for one sample, after which the loader reports an error.
    pub timeout: Duration,
    /// Policy for samples that cannot be loaded, and the record of them; `None`: an error.
    pub bad_images: Option<Arc<BadImages>>,
    /// Device that the batches are for: for a CUDA device, images are loaded into page-locked memory.
    pub device: Device,
    /// Mixing and erasing of training batches.
    pub batch_transform: Option<Arc<dyn BatchTransform>>,
    /// Prepares the images in the workers instead of the training step (timm's `--no-prefetcher`): batches hold f32 images and no changes.
    pub prepare_on_host: Option<BatchPreparation>,
}

impl Default for LoaderOptions {
    /// Training batches of 128 RGB images from four workers on one rank, for the CPU.
    fn default() -> LoaderOptions {
        LoaderOptions {
            training: true,
            batch_size: 128,
            channels: 3,
            exif_orientation: false,
            gray16: Gray16::default(),
            seed: 42,
            rank: 0,
            world: 1,
            epoch_repeats: 1.0,
            fixed_batches: None,
            repeats: 1,
            workers: 4,
            prefetch: 2,
            timeout: Duration::from_secs(120),
            bad_images: None,
            device: Device::Cpu,
            batch_transform: None,
            prepare_on_host: None,
        }
    }
}
