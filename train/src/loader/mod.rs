//! Data loader: reads, decodes and augments samples in worker threads, and uploads batches ahead of the training step.
//!
//! A batch is a pure function of (seed, epoch, index): it does not depend on the number of workers, on the prefetch depth or, taken over
//! all ranks, on their number. The loader's state is (epoch, next batch).
//!
//! - [`sampler`]: which samples are in a batch, and which of them belong to a rank.
//! - `sample`: one sample read, decoded and transformed. `job`: a batch under construction. `workers`: the threads.
//! - [`EpochBatches`]: batches in order. [`StagedBatches`]: the same on a device.
mod augmentation;
mod batch;
mod batch_transform;
mod epoch;
mod job;
mod options;
mod preparation;
mod sample;
pub mod sampler;
mod staging;
mod workers;

pub use augmentation::BatchAugmentation;
pub use batch::Batch;
pub use batch_transform::{BatchChanges, BatchTransform, GlobalBatch};
pub use epoch::EpochBatches;
pub use options::LoaderOptions;
pub use preparation::BatchPreparation;
pub use staging::StagedBatches;

use crate::augment::ImageTransform;
use crate::data::bad_images::BadImage;
use crate::data::decode::DecodeOptions;
use crate::data::{Dataset, Image};
use crate::{Error, Result};
use fornax_engine::Device;
use job::LoaderPlan;
use rayon::prelude::*;
use sample::SampleLoader;
use sampler::{SampleOccurrence, Sampler};
use std::sync::Arc;
use workers::WorkerPool;

/// Loader of one split of a dataset. Clones share the worker threads.
#[derive(Clone)]
pub struct Loader {
    plan: Arc<LoaderPlan>,
    pool: Option<Arc<WorkerPool>>,
}

impl Loader {
    /// Creates a loader and starts its worker threads. Errors if an option is out of range.
    pub fn new(
        dataset: Arc<dyn Dataset>,
        transform: Arc<dyn ImageTransform>,
        options: LoaderOptions,
    ) -> Result<Loader> {
        check(&options)?;
        let sampler = Sampler {
            len: dataset.len(),
            batch_size: options.batch_size,
            training: options.training,
            seed: options.seed,
            world: options.world,
            epoch_repeats: options.epoch_repeats,
            repeats: options.repeats,
            fixed_batches: options.fixed_batches,
        };
        let LoaderOptions { training, seed, channels, exif_orientation, gray16, workers, timeout, .. } =
            options;
        let decode = DecodeOptions { channels, exif_orientation, gray16 };
        let bad_images = options.bad_images.clone();
        let is_alone = options.world == 1;
        let samples = SampleLoader { dataset, transform, training, seed, decode, bad_images, is_alone };
        let pool = match workers {
            0 => None,
            count => Some(Arc::new(WorkerPool::start(count, timeout)?)),
        };
        Ok(Loader { plan: Arc::new(LoaderPlan { samples, sampler, options }), pool })
    }

    /// The dataset.
    pub fn dataset(&self) -> &dyn Dataset {
        &*self.plan.samples.dataset
    }

    /// The options.
    pub fn options(&self) -> &LoaderOptions {
        &self.plan.options
    }

    /// Height, width and channels of the images.
    pub fn image_size(&self) -> [usize; 3] {
        self.plan.samples.image_size()
    }

    /// Batches in an epoch, the same for every rank.
    pub fn batches(&self) -> usize {
        self.plan.sampler.batches()
    }

    /// Samples in the batches of an epoch, over all ranks.
    pub fn samples(&self) -> usize {
        self.plan.sampler.samples()
    }

    /// Starts loading an epoch from batch `first` on.
    pub fn epoch(&self, epoch: u32, first: usize) -> Result<EpochBatches> {
        EpochBatches::new(self.plan.clone(), self.pool.clone(), epoch, first)
    }

    /// Starts loading an epoch from batch `first` on, with batches uploaded ahead to the device of the options. `prepare` changes each
    /// batch on the host before its upload.
    pub fn staged_epoch<'a>(
        &self,
        epoch: u32,
        first: usize,
        prepare: impl Fn(Batch) -> Result<Batch> + 'a,
    ) -> Result<StagedBatches<'a>> {
        let device: Device = self.plan.options.device;
        Ok(StagedBatches::new(self.epoch(epoch, first)?, device, Box::new(prepare)))
    }

    /// Loads the image of the sample at `index` as in the first epoch: of a clip the first frame, of several views the first; `None` if it
    /// is skipped as a bad image.
    pub fn image(&self, index: usize) -> Result<Option<Image>> {
        let sample = self.plan.samples.load(0, SampleOccurrence { index, repeat: 0 })?;
        Ok(sample.and_then(|sample| sample.frames.into_iter().flatten().next()))
    }

    /// Those of some bad images that still cannot be read and decoded. Indices that the dataset does not have are ignored.
    pub fn still_bad(&self, indices: &[usize]) -> Result<Vec<(usize, BadImage)>> {
        let known = indices.par_iter().filter(|index| **index < self.dataset().len());
        let checked = known.map(|index| Ok(self.plan.samples.defect(*index)?.map(|bad| (*index, bad))));
        Ok(checked.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Loads one batch of an epoch on this thread.
    pub fn batch(&self, epoch: u32, index: usize) -> Result<Batch> {
        let mut batches = EpochBatches::new(self.plan.clone(), None, epoch, index)?;
        batches.next().unwrap_or_else(|| {
            Err(Error::usage(format!("batch {index} is out of range"))
                .because(format!("an epoch has {} batches", self.batches())))
        })
    }
}

fn check(options: &LoaderOptions) -> Result<()> {
    let LoaderOptions { batch_size, channels, rank, world, epoch_repeats, repeats, .. } = *options;
    let problems = [
        (batch_size == 0, "the batch size must be at least 1".to_string()),
        (channels != 1 && channels != 3, format!("images have 1 or 3 channels, not {channels}")),
        (rank >= world, format!("rank {rank} is out of range: there are {world} ranks")),
        (epoch_repeats.is_nan() || epoch_repeats < 1.0, format!("epoch repeats {epoch_repeats} are below 1")),
        (repeats == 0, "the number of repeats of a sample must be at least 1".to_string()),
    ];
    match problems.into_iter().find(|(wrong, _)| *wrong) {
        Some((_, why)) => Err(Error::usage("the loader's options are invalid").because(why)),
        None => Ok(()),
    }
}
