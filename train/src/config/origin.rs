//! Origins of values that the user does not give.
use super::Config;
use crate::data::DatasetSplits;

/// Origin of a value that the user does not give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built-in default.
    Default,
    /// Default recipe of the dataset.
    DatasetRecipe,
    /// Images or statistics of the dataset.
    Dataset,
    /// The file of the initial weights.
    Weights,
    /// The model's own configuration.
    Model,
    /// The optimizer's own default.
    Optimizer,
}

impl Config {
    /// Origin of a setting's value, by the setting's name, if the user does not give it.
    pub fn origin(&self, name: &str, data: &DatasetSplits) -> Origin {
        match name {
            "model" if self.of_weights.model.is_some() => Origin::Weights,
            "model" | "batch_size" | "epochs" | "warmup_epochs" | "lr" | "weight_decay" | "smoothing"
            | "train_crop_mode" | "shift" | "hflip" | "color_jitter" => Origin::DatasetRecipe,
            "input_size" | "crop_pct" if data.image_size.is_some() => Origin::Dataset,
            "mean" | "std" if data.statistics.is_some() => Origin::Dataset,
            "input_size" | "mean" | "std" | "crop_pct" | "crop_mode" | "interpolation"
            | "exif_orientation"
                if self.of_weights.given().contains_key(name) =>
            {
                Origin::Weights
            }
            "input_size" | "mean" | "std" | "crop_pct" | "crop_mode" | "interpolation" => Origin::Model,
            "momentum" | "opt_betas" | "opt_eps" => Origin::Optimizer,
            _ => Origin::Default,
        }
    }
}
