//! Default recipes of datasets.
use crate::Result;
use crate::augment::TrainCropMode;
use crate::data::{DatasetFormat, DatasetOptions};

/// Default recipe of a dataset. The recipes of digits and fashion-mnist were tuned for accuracy in little CPU time; those of other small
/// images derive from them. The recipe of image files has the defaults of timm's training script.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recipe {
    pub model: &'static str,
    pub batch_size: u32,
    pub epochs: u32,
    pub warmup_epochs: u32,
    /// Learning rate and weight decay of SGD.
    pub sgd: [f64; 2],
    /// Learning rate and weight decay of AdamW.
    pub adamw: [f64; 2],
    /// Learning rate of every optimizer at a batch size of 256.
    pub lr_base: Option<f64>,
    pub smoothing: f64,
    pub crop: TrainCropMode,
    pub shift: u32,
    pub hflip: f64,
    pub color_jitter: &'static [f64],
    /// Images are files that are decoded.
    pub has_image_files: bool,
    /// Largest default warmup, as a fraction of the epochs.
    pub max_warmup: f64,
}

const SMALL: Recipe = Recipe {
    model: "resnet8",
    batch_size: 32,
    epochs: 30,
    warmup_epochs: 2,
    sgd: [0.1, 5e-4],
    adamw: [3e-3, 0.05],
    lr_base: None,
    smoothing: 0.1,
    crop: TrainCropMode::Shift,
    shift: 1,
    hflip: 0.0,
    color_jitter: &[],
    has_image_files: false,
    // The warmup stays shorter than a short schedule.
    max_warmup: 0.25,
};

const MNIST: Recipe = Recipe { epochs: 5, warmup_epochs: 1, ..SMALL };

const CIFAR: Recipe = Recipe { shift: 4, hflip: 0.5, batch_size: 128, ..SMALL };

const PHOTOS: Recipe = Recipe {
    model: "resnet50",
    batch_size: 128,
    epochs: 300,
    warmup_epochs: 5,
    sgd: [0.1, 2e-5],
    adamw: [0.1, 2e-5],
    lr_base: Some(0.1),
    smoothing: 0.1,
    crop: TrainCropMode::Rrc,
    shift: 0,
    hflip: 0.5,
    color_jitter: &[0.4],
    has_image_files: true,
    max_warmup: 0.25,
};

impl Recipe {
    /// The recipe of a dataset, by its name or its format. Errors if the dataset is unknown.
    pub fn of(dataset: &DatasetOptions) -> Result<Recipe> {
        Ok(match (dataset.name.as_deref(), dataset.format()?) {
            // Five epochs are too few to benefit from shifts or smoothing.
            (Some("fashion-mnist"), _) => Recipe { hflip: 0.5, shift: 0, smoothing: 0.0, ..MNIST },
            (_, DatasetFormat::Digits) => SMALL,
            (_, DatasetFormat::Idx) => MNIST,
            (_, DatasetFormat::Cifar10 | DatasetFormat::Cifar100) => CIFAR,
            _ => PHOTOS,
        })
    }

    /// The defaults of timm's training script, for the same dataset.
    pub fn of_timm(self) -> Recipe {
        Recipe { has_image_files: self.has_image_files, max_warmup: 1.0, ..PHOTOS }
    }
}
