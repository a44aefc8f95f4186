//! The model zoo.
mod convnext;
mod efficientnet;
mod model;
mod options;
mod registry;
mod regnet;
mod resnet;
mod summary;
mod vision_transformer;

pub use convnext::{ConvNeXt, ConvNeXtConfig};
pub use efficientnet::{EfficientNet, EfficientNetConfig};
pub use model::{FeatureExtractor, FeatureInfo, MATCH_PREV_GROUP, Model, init_weights};
pub use options::{ModelOptions, Pooling};
pub use registry::{ModelInfo, PretrainedCfg, create_model, find_model, list_models};
pub use regnet::{RegNet, RegNetConfig};
pub use resnet::{ResNet, ResNetConfig, ResNetStem};
pub use summary::{LayerSummary, ModelSummary, summary};
pub use vision_transformer::{VisionTransformer, VisionTransformerConfig};

/// Multiple of `divisor` nearest to `channels`, at least `divisor`; the next larger one if the nearest is below `limit * channels`. timm's
/// `make_divisible`.
fn make_divisible(channels: f64, divisor: usize, limit: f64) -> usize {
    let half = divisor as f64 / 2.0;
    let rounded = ((channels + half) as usize / divisor * divisor).max(divisor);
    if (rounded as f64) < limit * channels { rounded + divisor } else { rounded }
}

/// Stochastic depth probabilities of `blocks` blocks, increasing linearly from 0 to `drop_path_rate`.
fn drop_path_rates(drop_path_rate: f64, blocks: usize) -> impl Iterator<Item = f64> {
    (0..blocks).map(move |i| drop_path_rate * i as f64 / (blocks.max(2) - 1) as f64)
}
