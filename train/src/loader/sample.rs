//! Loading of one sample: reading, decoding, transform.
use super::sampler::SampleOccurrence;
use crate::augment::ImageTransform;
use crate::data::bad_images::{BadImage, replacement};
use crate::data::decode::DecodeOptions;
use crate::data::{BadImagePolicy, BadImages, Dataset, Image, SampleImage};
use crate::error::ErrorKind;
use crate::{Error, Result};
use fornax_engine::random::{RngKey, RngStream};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Maximum number of replacements tried for a bad image.
const MAX_REPLACEMENTS: u32 = 10;

/// Reads samples of a dataset and transforms them. The result depends on seed, epoch and sample alone.
pub(super) struct SampleLoader {
    pub(super) dataset: Arc<dyn Dataset>,
    pub(super) transform: Arc<dyn ImageTransform>,
    pub(super) training: bool,
    pub(super) seed: u64,
    pub(super) decode: DecodeOptions,
    pub(super) bad_images: Option<Arc<BadImages>>,
    /// There is one rank. Several ranks count their bad images together.
    pub(super) is_alone: bool,
}

/// Loaded sample.
pub(super) struct LoadedSample {
    /// For each frame of the clip, the views that the transform has made of it.
    pub(super) frames: Vec<Vec<Image>>,
    /// Class index.
    pub(super) target: i64,
}

impl SampleLoader {
    /// Height, width and channels of the transformed images.
    pub(super) fn image_size(&self) -> [usize; 3] {
        let [h, w] = self.transform.output_size();
        [h, w, self.decode.channels]
    }

    /// Loads a sample, or by the policy for bad images another one in its place; `None` if it is skipped.
    pub(super) fn load(&self, epoch: u32, sample: SampleOccurrence) -> Result<Option<LoadedSample>> {
        let number = sample.number(self.dataset.len());
        let (mut index, mut attempt) = (sample.index, 0);
        loop {
            let error = match self.try_load(epoch, number, index) {
                Ok(loaded) => return Ok(Some(loaded)),
                Err(error) => error,
            };
            let Some(bad_images) = &self.bad_images else { return Err(error) };
            if attempt == MAX_REPLACEMENTS {
                return Err(error);
            }
            bad_images.report(&*self.dataset, index, error)?;
            if self.is_alone {
                bad_images.check()?;
            }
            if bad_images.policy() == BadImagePolicy::Skip {
                return Ok(None);
            }
            index = replacement(self.seed, epoch, number as usize, attempt, self.dataset.len());
            attempt += 1;
        }
    }

    /// Loads the sample at `index` with the random numbers of `number`. A panic of the dataset or the transform is an error, which names
    /// the sample's file like any other.
    fn try_load(&self, epoch: u32, number: u64, index: usize) -> Result<LoadedSample> {
        self.without_panics(index, || self.read(epoch, number, index))
    }

    /// Location and reason if a sample cannot be read or decoded. Unlike in training, all of its pixels are decoded.
    pub(super) fn defect(&self, index: usize) -> Result<Option<BadImage>> {
        let checked = self.without_panics(index, || {
            for image in self.dataset.clip(index, None)? {
                if let SampleImage::Encoded(bytes) = image {
                    Image::decode_with(&bytes, &self.decode)
                        .map_err(|why| Error::data("an image cannot be used").because(why))?;
                }
            }
            Ok(())
        });
        match checked {
            Ok(()) => Ok(None),
            Err(error) if error.kind() == ErrorKind::Data => {
                Ok(Some(BadImage::new(self.location(index), &error)))
            }
            Err(error) => Err(error),
        }
    }

    /// The result of `read`, or an error that names the sample if it panics.
    fn without_panics<T>(&self, index: usize, read: impl FnOnce() -> Result<T>) -> Result<T> {
        catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
            Err(Error::data("a sample cannot be loaded: its reader or transform panicked")
                .at(self.location(index))
                .because(panic_message(&*panic))
                .remedy("remove the file if it is damaged; otherwise this is a bug of the dataset or the transform"))
        })
    }

    /// Location of a sample for messages.
    pub(super) fn location(&self, index: usize) -> String {
        catch_unwind(AssertUnwindSafe(|| self.dataset.location(index)))
            .unwrap_or_else(|_| format!("sample {index} of the dataset"))
    }

    fn read(&self, epoch: u32, number: u64, index: usize) -> Result<LoadedSample> {
        let rng = |purpose| RngStream::new(RngKey::new(self.seed, purpose), epoch, number);
        let frames = match self.dataset.clip_len() {
            1 => vec![self.dataset.image(index)?],
            _ => self.dataset.clip(index, self.training.then(|| rng("clip")).as_mut())?,
        };
        let frames = frames.into_iter().map(|image| {
            // All frames of a clip have the same random numbers, and so the same crop and flip.
            let rng = &mut rng("augment");
            let transformed = match image {
                SampleImage::Encoded(bytes) => self.transform.apply_encoded(&bytes, &self.decode, rng),
                SampleImage::Decoded(image) => {
                    self.transform.apply(&image.with_channels(self.decode.channels), rng)
                }
            };
            let views = transformed.map_err(|why| {
                // A run whose training images change is not resumed.
                let remedy = match (&self.bad_images, self.training) {
                    (None, _) => "repair or remove the file",
                    (_, true) => "repair or replace the file, or choose another --bad-image",
                    (_, false) => "repair, replace or remove the file, or choose another --bad-image",
                };
                Error::data("an image cannot be used").at(self.location(index)).because(why).remedy(remedy)
            })?;
            self.check(&views).map(|()| views)
        });
        let frames = frames.collect::<Result<Vec<_>>>()?;
        if frames.len() != self.dataset.clip_len() {
            let why = format!("it has {} frames, expected {}", frames.len(), self.dataset.clip_len());
            return Err(Error::data("a clip cannot be used").at(self.location(index)).because(why));
        }
        Ok(LoadedSample { frames, target: i64::from(self.dataset.target(index)) })
    }

    fn check(&self, views: &[Image]) -> Result<()> {
        let (size, count) = (self.image_size(), self.transform.views());
        let bytes: usize = size.iter().product();
        match views.iter().find(|view| view.size != size || view.pixels.len() != bytes) {
            None if views.len() == count => Ok(()),
            wrong => {
                let found =
                    wrong.map_or(format!("{} images", views.len()), |view| format!("{:?}", view.size));
                Err(Error::new(ErrorKind::Bug, "an image transform broke its contract")
                    .because(format!("it returned {found}, expected {count} images of {size:?}")))
            }
        }
    }
}

/// Message of a panic.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or("an unknown panic".into())
}
