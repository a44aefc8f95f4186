//! A batch under construction: its memory, the samples that are still missing, and its completion.
use super::sample::{LoadedSample, SampleLoader, panic_message};
use super::sampler::{EpochOrder, SampleOccurrence, Sampler};
use super::{Batch, BatchChanges, GlobalBatch, LoaderOptions};
use crate::error::ErrorKind;
use crate::{Error, Result};
use fornax_engine::{DType, Device, ImageChange, Tensor, cuda};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Everything that batches of a loader have in common.
pub(super) struct LoaderPlan {
    pub(super) samples: SampleLoader,
    pub(super) sampler: Sampler,
    pub(super) options: LoaderOptions,
}

/// Batch under construction. Its samples are loaded in any order, by any thread.
pub(super) struct BatchJob {
    plan: Arc<LoaderPlan>,
    epoch: u32,
    index: usize,
    /// Samples of all ranks.
    samples: Vec<SampleOccurrence>,
    /// Positions of this rank's samples.
    shard: Vec<usize>,
    /// Images, u8; each sample is written into its own part.
    images: Tensor,
    progress: Mutex<JobProgress>,
    finished: Condvar,
    cancelled: AtomicBool,
}

struct JobProgress {
    /// Samples that are not loaded yet.
    missing: usize,
    /// Class index of each loaded sample of this rank; `None` for samples that are ignored.
    targets: Vec<Option<i64>>,
    error: Option<Error>,
    result: Option<Result<Batch>>,
}

impl LoaderPlan {
    /// Starts the batch at `index` of an epoch.
    pub(super) fn job(
        self: &Arc<LoaderPlan>,
        epoch: u32,
        order: &EpochOrder,
        index: usize,
    ) -> Result<BatchJob> {
        let samples = order.batch(index);
        let shard = self.sampler.shard(samples.len(), self.options.rank);
        let [h, w, c] = self.samples.image_size();
        let shape = [shard.len() * self.images_per_sample(), h, w, c];
        let images = match &self.options.device {
            Device::Cpu => Tensor::build(shape, |_: &mut [u8]| ())?,
            device => cuda::pinned_tensor(shape, DType::U8, device)?,
        };
        let progress =
            JobProgress { missing: shard.len(), targets: vec![None; shard.len()], error: None, result: None };
        let job = BatchJob {
            plan: self.clone(),
            epoch,
            index,
            samples,
            shard,
            images,
            progress: Mutex::new(progress),
            finished: Condvar::new(),
            cancelled: AtomicBool::new(false),
        };
        if job.shard.is_empty() {
            job.finish(&mut job.lock());
        }
        Ok(job)
    }

    fn images_per_sample(&self) -> usize {
        self.samples.transform.views() * self.samples.dataset.clip_len()
    }
}

impl BatchJob {
    /// Number of samples to load.
    pub(super) fn len(&self) -> usize {
        self.shard.len()
    }

    /// Index in the dataset of sample `slot`.
    pub(super) fn sample_index(&self, slot: usize) -> usize {
        self.samples[self.shard[slot]].index
    }

    /// Loads sample `slot` and stores it; the last one completes the batch.
    pub(super) fn load(&self, slot: usize) {
        let stopped = self.cancelled.load(Ordering::Relaxed) || self.lock().error.is_some();
        let loaded = match stopped {
            true => Ok(None),
            false => self.plan.samples.load(self.epoch, self.samples[self.shard[slot]]),
        };
        let target = loaded.and_then(|sample| match sample {
            Some(sample) => self.store(slot, &sample).map(|()| Some(sample.target)),
            None => Ok(None),
        });
        let mut progress = self.lock();
        match target {
            Ok(target) => progress.targets[slot] = target,
            Err(error) => {
                progress.error.get_or_insert(error);
            }
        }
        progress.missing -= 1;
        if progress.missing == 0 {
            self.finish(&mut progress);
        }
    }

    /// Takes the batch once it is complete, after waiting for at most `limit`.
    pub(super) fn wait(&self, limit: Duration) -> Option<Result<Batch>> {
        let progress = self.lock();
        let (mut progress, _) = self
            .finished
            .wait_timeout_while(progress, limit, |progress| progress.result.is_none())
            .unwrap_or_else(|e| e.into_inner());
        progress.result.take()
    }

    /// True once the batch is complete.
    pub(super) fn is_finished(&self) -> bool {
        self.lock().result.is_some()
    }

    /// Stops the loading of further samples.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, JobProgress> {
        self.progress.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Copies the images of a sample to their places.
    fn store(&self, slot: usize, sample: &LoadedSample) -> Result<()> {
        let mut all = self.images.write::<u8>()?;
        for (frame, images) in sample.frames.iter().enumerate() {
            for (view, image) in images.iter().enumerate() {
                let len = image.pixels.len();
                all[self.place(slot, view, frame, self.len()) * len..][..len].copy_from_slice(&image.pixels);
            }
        }
        Ok(())
    }

    /// Place of an image in a batch of `count` samples.
    fn place(&self, slot: usize, view: usize, frame: usize, count: usize) -> usize {
        let group = match self.plan.options.training {
            true => view * count + slot,
            false => slot * self.views() + view,
        };
        group * self.clip_len() + frame
    }

    fn views(&self) -> usize {
        self.plan.samples.transform.views()
    }

    fn clip_len(&self) -> usize {
        self.plan.samples.dataset.clip_len()
    }

    fn finish(&self, progress: &mut JobProgress) {
        let result = match progress.error.take() {
            Some(error) => Err(error),
            None => {
                catch_unwind(AssertUnwindSafe(|| self.complete(&progress.targets))).unwrap_or_else(|panic| {
                    let error = Error::new(ErrorKind::Bug, "the batch transform panicked");
                    Err(error.because(panic_message(&*panic)))
                })
            }
        };
        progress.result = Some(result);
        self.finished.notify_all();
    }

    /// Makes the batch of loaded images and their targets.
    fn complete(&self, loaded: &[Option<i64>]) -> Result<Batch> {
        let options = &self.plan.options;
        let transform = options.batch_transform.as_ref().filter(|_| options.training);
        let changes = transform.map(|t| self.global_changes(loaded, |batch| t.changes(batch))).transpose()?;
        let mut kept: Vec<usize> = (0..self.len()).filter(|slot| loaded[*slot].is_some()).collect();
        if let Some(changes) = &changes {
            self.drop_broken_pairs(changes, &mut kept)?;
        }
        if kept.is_empty() && self.len() > 0 && options.training {
            return Err(Error::data("a batch has no images")
                .at(format!("batch {} of epoch {}", self.index, self.epoch + 1))
                .because("all of them are bad and skipped")
                .remedy("repair the dataset, or choose --bad-image replace"));
        }
        let images = if kept.len() == self.len() { self.images.clone() } else { self.compacted(&kept)? };
        let mut targets: Vec<i64> = kept.iter().filter_map(|slot| loaded[*slot]).collect();
        let mut outputs_per_target = self.clip_len();
        match options.training {
            true => targets = targets.repeat(self.views()),
            false => outputs_per_target *= self.views(),
        }
        let target = Tensor::from_slice(&targets, [targets.len()])?;
        let is_skipped = |slot: &usize| kept.binary_search(slot).is_err();
        let skipped = (0..self.len()).filter(is_skipped).map(|slot| self.sample_index(slot) as u32).collect();
        let global_rows = self.global_rows(&kept)?;
        let mut batch = Batch { outputs_per_target, global_rows, skipped, ..Batch::new(images, target) };
        if let (Some(changes), Some(transform)) = (changes, transform) {
            let (rows, soft) = self.own_changes(changes, &kept)?;
            batch.target = match soft {
                Some(soft) => soft,
                None => batch.target.narrow(0, 0, rows.len() / self.clip_len())?,
            };
            batch.changes =
                Some(ImageChange::rows(&rows, batch.images.dims()[0], transform.max_erase_boxes())?);
        }
        if let Some(preparation) = &options.prepare_on_host {
            batch.images = preparation.apply(&batch.images, batch.changes.take().as_ref(), DType::F32)?;
        }
        Ok(batch)
    }

    /// In training, the row of each image of the kept samples in the batch of all ranks, if there are several.
    fn global_rows(&self, kept: &[usize]) -> Result<Option<Tensor>> {
        if !self.plan.options.training || self.plan.sampler.world == 1 {
            return Ok(None);
        }
        let (clip, count) = (self.clip_len(), self.samples.len());
        let groups = (0..self.views()).flat_map(|view| kept.iter().map(move |slot| (view, slot)));
        let first = groups.map(|(view, slot)| (view * count + self.shard[*slot]) * clip);
        let rows: Vec<i64> = first.flat_map(|first| first..first + clip).map(|row| row as i64).collect();
        Ok(Some(Tensor::from_slice(&rows, [rows.len()])?))
    }

    /// Changes of the batch of all ranks.
    fn global_changes(
        &self,
        loaded: &[Option<i64>],
        compute: impl FnOnce(&GlobalBatch) -> std::result::Result<BatchChanges, String>,
    ) -> Result<BatchChanges> {
        let samples = &self.plan.samples;
        let numbers: Vec<u64> = self.samples.iter().map(|s| s.number(samples.dataset.len())).collect();
        let mut targets: Vec<i64> =
            self.samples.iter().map(|s| i64::from(samples.dataset.target(s.index))).collect();
        // A replaced image has another target.
        for (position, target) in self.shard.iter().zip(loaded) {
            targets[*position] = target.unwrap_or(targets[*position]);
        }
        let batch = GlobalBatch {
            seed: self.plan.options.seed,
            epoch: self.epoch,
            index: self.index,
            samples: &numbers,
            targets: &targets,
            views: self.views(),
            image_size: samples.transform.output_size(),
        };
        let mut changes = compute(&batch).map_err(|why| {
            Error::usage("a batch cannot be augmented").at(format!("batch {}", self.index)).because(why)
        })?;
        // With the epoch in it, the noise in erased boxes depends on this number alone.
        for (i, change) in changes.changes.iter_mut().enumerate() {
            change.sample = u64::from(self.epoch) << 40 | numbers[i % numbers.len()];
        }
        Ok(changes)
    }

    /// For each position in the batch of all ranks, its index in `slots`, a choice of this rank's samples.
    fn local_indices(&self, slots: &[usize]) -> Vec<Option<usize>> {
        let mut local = vec![None; self.samples.len()];
        slots.iter().enumerate().for_each(|(i, slot)| local[self.shard[*slot]] = Some(i));
        local
    }

    /// Removes samples that would be mixed with a sample that is skipped, or the other way round.
    fn drop_broken_pairs(&self, changes: &BatchChanges, kept: &mut Vec<usize>) -> Result<()> {
        let count = self.samples.len();
        let own = self.local_indices(&(0..self.len()).collect::<Vec<_>>());
        let mut is_kept = vec![false; self.len()];
        kept.iter().for_each(|slot| is_kept[*slot] = true);
        let mut pairs = vec![];
        for (image, change) in changes.changes.iter().enumerate() {
            let Some(slot) = own[image % count] else { continue };
            let partner = own.get(change.partner % count).copied().flatten().ok_or_else(|| {
                let (world, samples) = (self.plan.sampler.world, self.len());
                Error::usage("mixup and CutMix need an even number of images per rank")
                    .at("--batch-size")
                    .because(format!("{samples} images on each of {world} ranks cannot be paired"))
                    .remedy("choose a batch size that is a multiple of twice the number of ranks")
            })?;
            pairs.push((slot, partner));
        }
        while let Some((a, b)) = pairs.iter().find(|(a, b)| is_kept[*a] != is_kept[*b]) {
            (is_kept[*a], is_kept[*b]) = (false, false);
        }
        kept.retain(|slot| is_kept[*slot]);
        Ok(())
    }

    /// The images of some of the samples.
    fn compacted(&self, kept: &[usize]) -> Result<Tensor> {
        let [h, w, c] = self.plan.samples.image_size();
        let (len, per_sample) = (h * w * c, self.plan.images_per_sample());
        let all = self.images.read::<u8>()?;
        let images = Tensor::build([kept.len() * per_sample, h, w, c], |out: &mut [u8]| {
            for (i, slot) in kept.iter().enumerate() {
                for view in 0..self.views() {
                    for frame in 0..self.clip_len() {
                        let from = self.place(*slot, view, frame, self.len()) * len;
                        let to = self.place(i, view, frame, kept.len()) * len;
                        out[to..][..len].copy_from_slice(&all[from..][..len]);
                    }
                }
            }
        })?;
        Ok(images)
    }

    /// The kept samples' part of the changes of a whole batch, one for each image of a clip, and their part of the target.
    fn own_changes(&self, all: BatchChanges, kept: &[usize]) -> Result<(Vec<ImageChange>, Option<Tensor>)> {
        let (count, clip, local) = (self.samples.len(), self.clip_len(), self.local_indices(kept));
        // Image `view * count + position` of the whole batch.
        let own = |image: usize| Some(image / count * kept.len() + local[image % count]?);
        let mut images: Vec<(usize, usize)> =
            (0..all.changes.len()).filter_map(|image| Some((own(image)?, image))).collect();
        images.sort_unstable();
        let row = |image: usize, frame: usize| {
            let change = &all.changes[image];
            let partner = own(change.partner).expect("pairs are kept or dropped together");
            ImageChange { partner: partner * clip + frame, ..change.clone() }
        };
        let rows = images.iter().flat_map(|(_, image)| (0..clip).map(move |frame| (*image, frame)));
        let rows = rows.map(|(image, frame)| row(image, frame)).collect();
        let Some(target) = all.target else { return Ok((rows, None)) };
        let classes = target.dims().last().copied().unwrap_or_default();
        let from = target.read::<f32>()?;
        let own_rows: Vec<f32> =
            images.iter().flat_map(|(_, image)| &from[image * classes..][..classes]).copied().collect();
        Ok((rows, Some(Tensor::from_slice(&own_rows, [images.len(), classes])?)))
    }
}
