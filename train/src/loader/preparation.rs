//! Preparation of u8 images for the model: mixing, normalisation and erasing in one pass.
use crate::data::ChannelStats;
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{DType, EraseMode, ImagePreparation, Result, Tensor};

/// Options of the preparation of u8 images. It runs in the training step on the model's device, or on the host in the loader's workers.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchPreparation {
    /// Mean and standard deviation for the normalisation.
    pub statistics: ChannelStats,
    /// Round mixed values to bytes, as timm's collation does with its prefetcher.
    pub rounded: bool,
    /// Content of erased boxes.
    pub erase_mode: EraseMode,
    /// Seed of the noise in erased boxes.
    pub seed: u64,
}

impl BatchPreparation {
    /// Prepares u8 images `[n, h, w, c]` in a float dtype: mixes and erases as encoded in the rows of `changes`, and normalises.
    pub fn apply(&self, images: &Tensor, changes: Option<&Tensor>, dtype: DType) -> Result<Tensor> {
        let ChannelStats { white, mean, std } = &self.statistics;
        let Some(changes) = changes else { return self.statistics.normalise(images, dtype) };
        // The epoch is part of each row's sample number, so that a captured step reads it from device memory.
        let rng = RngStream::new(RngKey::new(self.seed, "erase"), 0, 0);
        let options = ImagePreparation {
            white: *white,
            mean,
            std,
            rounded: self.rounded,
            erase_mode: self.erase_mode,
            rng,
        };
        images.prepare_images(changes, &options, dtype)
    }
}

impl From<ChannelStats> for BatchPreparation {
    /// Normalisation without mixing and erasing.
    fn from(statistics: ChannelStats) -> BatchPreparation {
        BatchPreparation { statistics, rounded: true, erase_mode: EraseMode::Const, seed: 0 }
    }
}
