//! Data loader: shuffling, augmentation and batching.
use super::LabelledImages;
use crate::Result;
use crate::augment::Augment;
use fornax_engine::random::{Permutation, RngKey, RngStream};
use fornax_engine::{Device, Tensor};

/// A batch of images and targets.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Images `[n, h, w, c]`: u8, normalised later on the device, or floats that are already normalised.
    pub images: Tensor,
    /// Targets: class indices, i64 `[n]`, or class probabilities `[n, classes]`.
    pub target: Tensor,
}

impl Batch {
    /// The same batch on a device.
    pub fn to_device(&self, device: &Device) -> Result<Batch> {
        Ok(Batch { images: self.images.to_device(device)?, target: self.target.to_device(device)? })
    }
}

/// Loader of one split. A batch is a pure function of (seed, epoch, index): the loader has no state.
#[derive(Clone, Copy, Debug)]
pub struct Loader<'a> {
    images: &'a LabelledImages,
    batch_size: usize,
    /// Seed and augmentation; `None` for images in file order with a smaller last batch.
    training: Option<(u64, Augment)>,
}

impl<'a> Loader<'a> {
    /// Creates a training loader: shuffled and augmented batches of equal size; the remainder of an epoch is dropped.
    pub fn training(
        images: &'a LabelledImages,
        batch_size: usize,
        seed: u64,
        augment: Augment,
    ) -> Loader<'a> {
        Loader { images, batch_size, training: Some((seed, augment)) }
    }

    /// Creates a validation loader: every image once, in order, unchanged.
    pub fn validation(images: &'a LabelledImages, batch_size: usize) -> Loader<'a> {
        Loader { images, batch_size, training: None }
    }

    /// Batches in an epoch.
    pub fn batches(&self) -> usize {
        match self.training {
            Some(_) => self.images.len() / self.batch_size,
            None => self.images.len().div_ceil(self.batch_size),
        }
    }

    /// Images in an epoch.
    pub fn samples(&self) -> usize {
        self.images.len().min(self.batches() * self.batch_size)
    }

    /// The batch at `index` of an epoch.
    pub fn batch(&self, epoch: u32, index: usize) -> Result<Batch> {
        let first = index * self.batch_size;
        let positions = first..self.images.len().min(first + self.batch_size);
        let samples: Vec<usize> = match self.training {
            Some((seed, _)) => {
                let order = Permutation::new(self.images.len() as u64, RngKey::new(seed, "shuffle"), epoch);
                positions.map(|p| order.get(p as u64) as usize).collect()
            }
            None => positions.collect(),
        };
        let [h, w, c] = self.images.size;
        let images = Tensor::build([samples.len(), h, w, c], |out: &mut [u8]| {
            for (sample, out) in samples.iter().zip(out.chunks_exact_mut(h * w * c)) {
                let image = self.images.image(*sample);
                match self.training {
                    Some((seed, augment)) => {
                        let mut rng = RngStream::new(Augment::key(seed), epoch, *sample as u64);
                        augment.apply(image, self.images.size, &mut rng, out);
                    }
                    None => out.copy_from_slice(image),
                }
            }
        })?;
        let target = samples.iter().map(|s| i64::from(self.images.labels[*s])).collect();
        Ok(Batch { images, target: Tensor::from_vec(target, [samples.len()])? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten images of one pixel, whose value is the label.
    fn images() -> LabelledImages {
        LabelledImages { size: [1, 1, 1], pixels: (0..10).collect(), labels: (0..10).collect() }
    }

    fn labels(loader: &Loader, epoch: u32) -> Vec<i64> {
        (0..loader.batches())
            .flat_map(|i| loader.batch(epoch, i).expect("a batch").target.to_vec::<i64>().expect("i64"))
            .collect()
    }

    #[test]
    fn validation_yields_every_image_once_in_order() {
        let images = images();
        let loader = Loader::validation(&images, 4);
        assert_eq!((loader.batches(), loader.samples()), (3, 10));
        assert_eq!(labels(&loader, 0), (0..10).collect::<Vec<_>>());
        let last = loader.batch(0, 2).expect("a batch").images;
        assert_eq!(last.dims(), [2, 1, 1, 1]);
        assert_eq!(last.to_vec::<u8>().expect("bytes"), [8, 9]);
    }

    #[test]
    fn training_shuffles_by_seed_and_epoch_and_drops_remainder() {
        let images = images();
        let order = |seed, epoch| {
            let loader = Loader::training(&images, 4, seed, Augment::default());
            assert_eq!((loader.batches(), loader.samples()), (2, 8));
            labels(&loader, epoch)
        };
        let mut once = order(1, 0);
        assert_eq!(once, order(1, 0));
        assert_ne!(once, order(1, 1));
        assert_ne!(once, order(2, 0));
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), 8, "no image occurs twice");
    }
}
