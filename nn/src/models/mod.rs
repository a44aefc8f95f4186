//! The model zoo.
mod registry;
mod resnet;

pub use registry::{ModelInfo, create_model, find, models};
pub use resnet::{ResNet, ResNetConfig, Stem};

/// What a caller chooses about a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelOptions {
    /// Classes of the head.
    pub num_classes: usize,
    /// Channels of the input images.
    pub in_chans: usize,
    /// Seed of the initial weights.
    pub seed: u64,
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions { num_classes: 1000, in_chans: 3, seed: 42 }
    }
}
