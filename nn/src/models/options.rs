//! Options of model creation.
use crate::layers::BatchNormOptions;
use crate::{Error, Result};
use fornax_engine::{Activation, GlobalPool};
use std::str::FromStr;

/// Options of [`create_model`](super::create_model), with the names of timm's arguments. An option that the model does not support is an
/// error.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelOptions {
    /// Number of classes; 0 for no classifier, so that the output is pooled features.
    pub num_classes: usize,
    /// Input channels.
    pub in_chans: usize,
    /// Seed of weight initialisation.
    pub seed: u64,
    /// Height and width of the images, for models with a fixed input size.
    pub img_size: Option<[usize; 2]>,
    /// Global pooling type.
    pub global_pool: Pooling,
    /// Dropout probability before the classifier.
    pub drop_rate: f64,
    /// Stochastic depth probability of the last block; it increases linearly over the blocks.
    pub drop_path_rate: f64,
    /// DropBlock probability in the last two stages.
    pub drop_block_rate: f64,
    /// Batch norm epsilon; `None` for the model's default.
    pub bn_eps: Option<f64>,
    /// Batch norm momentum; `None` for the model's default.
    pub bn_momentum: Option<f64>,
    /// TensorFlow's batch norm defaults: eps 1e-3, momentum 0.01. `bn_eps` and `bn_momentum` take precedence.
    pub bn_tf: bool,
    /// Augmentation splits of a training batch with batch norm layers of their own, as timm's `convert_splitbn_model`; 1 for none.
    pub bn_splits: usize,
    /// Stride of the last feature map: 32, or 16 or 8 with dilated convolutions instead of strides.
    pub output_stride: usize,
    /// Activation; `None` for the model's default.
    pub act_layer: Option<Activation>,
    /// Blocks of each stage of a ResNet; `None` for the model's default.
    pub layers: Option<Vec<usize>>,
    /// Channels of each stage of a ResNet, before the expansion of bottlenecks; `None` for the model's default.
    pub channels: Option<Vec<usize>>,
    /// Depthwise second convolution in the basic blocks of a ResNet. timm has no such option.
    pub depthwise_conv2: bool,
}

/// Global pooling type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The model's default.
    #[default]
    Default,
    /// No pooling: the output is a feature map.
    None,
    /// Features of the class token.
    Token,
    /// Global pooling over all pixels or patch tokens.
    Global(GlobalPool),
}

impl FromStr for Pooling {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Pooling, String> {
        match name {
            "" | "none" => Ok(Pooling::None),
            "token" => Ok(Pooling::Token),
            name => name.parse().map(Pooling::Global),
        }
    }
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions {
            num_classes: 1000,
            in_chans: 3,
            seed: 42,
            img_size: None,
            global_pool: Pooling::Default,
            drop_rate: 0.0,
            drop_path_rate: 0.0,
            drop_block_rate: 0.0,
            bn_eps: None,
            bn_momentum: None,
            bn_tf: false,
            bn_splits: 1,
            output_stride: 32,
            act_layer: None,
            layers: None,
            channels: None,
            depthwise_conv2: false,
        }
    }
}

impl ModelOptions {
    /// Default options with `num_classes` classes.
    pub fn classes(num_classes: usize) -> ModelOptions {
        ModelOptions { num_classes, ..ModelOptions::default() }
    }

    /// Option names accepted by [`ModelOptions::set`].
    pub const NAMES: [&'static str; 16] = [
        "num_classes",
        "in_chans",
        "seed",
        "img_size",
        "global_pool",
        "drop_rate",
        "drop_path_rate",
        "drop_block_rate",
        "bn_eps",
        "bn_momentum",
        "bn_tf",
        "output_stride",
        "act_layer",
        "layers",
        "channels",
        "depthwise_conv2",
    ];

    /// Sets an option by timm's name from text. Sizes are one number, or height and width separated by `x`; lists are separated by commas.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let invalid = |why: String| Error::ModelOption { option: format!("{name}={value}"), why };
        fn parse<T: FromStr>(value: &str, what: &str) -> std::result::Result<T, String> {
            value.parse().map_err(|_| format!("expected {what}"))
        }
        let probability = || match parse::<f64>(value, "a probability")? {
            probability if (0.0..1.0).contains(&probability) => Ok(probability),
            _ => Err("expected a probability of at least 0 and below 1".to_string()),
        };
        let whole = || parse::<usize>(value, "a non-negative integer");
        let positive = || match parse::<f64>(value, "a number")? {
            number if number > 0.0 && number.is_finite() => Ok(number),
            _ => Err("expected a positive number".to_string()),
        };
        let set = |options: &mut ModelOptions| -> std::result::Result<(), String> {
            match name {
                "num_classes" => options.num_classes = whole()?,
                "in_chans" => options.in_chans = whole()?,
                "seed" => options.seed = parse(value, "a non-negative integer")?,
                "img_size" => options.img_size = Some(size(value)?),
                "global_pool" => options.global_pool = value.parse()?,
                "drop_rate" => options.drop_rate = probability()?,
                "drop_path_rate" => options.drop_path_rate = probability()?,
                "drop_block_rate" => options.drop_block_rate = probability()?,
                "bn_eps" => options.bn_eps = Some(positive()?),
                "bn_momentum" => options.bn_momentum = Some(positive()?),
                "bn_tf" => options.bn_tf = parse(&value.to_lowercase(), "true or false")?,
                "output_stride" => options.output_stride = whole()?,
                "act_layer" => options.act_layer = Some(value.parse()?),
                "layers" => options.layers = Some(list(value)?),
                "channels" => options.channels = Some(list(value)?),
                "depthwise_conv2" => options.depthwise_conv2 = parse(&value.to_lowercase(), "true or false")?,
                _ => {
                    return Err(format!(
                        "unknown option; available options: {}",
                        ModelOptions::NAMES.join(", ")
                    ));
                }
            }
            Ok(())
        };
        set(self).map_err(invalid)
    }

    /// Hyperparameters of batch norm.
    pub(super) fn batch_norm(&self) -> BatchNormOptions {
        let default = match self.bn_tf {
            true => BatchNormOptions { eps: 1e-3, momentum: Some(0.01), splits: 1 },
            false => BatchNormOptions::default(),
        };
        BatchNormOptions {
            eps: self.bn_eps.unwrap_or(default.eps),
            momentum: self.bn_momentum.or(default.momentum),
            splits: self.bn_splits,
        }
    }

    /// Pooling type of a model without class token.
    pub(super) fn pool_type(&self, default: GlobalPool) -> Result<Option<GlobalPool>> {
        match self.global_pool {
            Pooling::Default => Ok(Some(default)),
            Pooling::None => Ok(None),
            Pooling::Global(kind) => Ok(Some(kind)),
            Pooling::Token => Err(unsupported("global_pool=token", "the model has no class token")),
        }
    }

    /// Checks that every option that differs from its default is supported.
    pub(super) fn check_supported(&self, supported: SupportedOptions) -> Result<()> {
        let (bn, block, stride) = (supported.batch_norm, supported.drop_block, supported.output_stride);
        let rules = [
            ("bn_eps", !bn && self.bn_eps.is_some(), "the model has no batch norm"),
            ("bn_momentum", !bn && self.bn_momentum.is_some(), "the model has no batch norm"),
            ("bn_splits", !bn && self.bn_splits > 1, "the model has no batch norm"),
            ("bn_tf", !bn && self.bn_tf, "the model has no batch norm"),
            ("drop_block_rate", !block && self.drop_block_rate > 0.0, "only ResNets support DropBlock"),
            ("output_stride", !stride && self.output_stride != 32, "the strides of the model are fixed"),
            ("output_stride", ![8, 16, 32].contains(&self.output_stride), "expected 8, 16 or 32"),
            (
                "img_size",
                !supported.img_size && self.img_size.is_some(),
                "the model accepts images of any size",
            ),
            ("in_chans", self.in_chans == 0, "expected at least one channel"),
            ("layers", !supported.stages && self.layers.is_some(), "only ResNets support it"),
            ("channels", !supported.stages && self.channels.is_some(), "only ResNets support it"),
            ("depthwise_conv2", !supported.stages && self.depthwise_conv2, "only ResNets support it"),
        ];
        match rules.into_iter().find(|(_, broken, _)| *broken) {
            Some((option, _, why)) => Err(unsupported(option, why)),
            None => Ok(()),
        }
    }
}

/// Optional features that an architecture supports.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SupportedOptions {
    pub batch_norm: bool,
    pub drop_block: bool,
    pub output_stride: bool,
    pub img_size: bool,
    /// `layers`, `channels` and `depthwise_conv2`.
    pub stages: bool,
}

pub(super) fn unsupported(option: &str, why: &str) -> Error {
    Error::ModelOption { option: option.into(), why: why.into() }
}

fn size(value: &str) -> std::result::Result<[usize; 2], String> {
    let (h, w) = value.split_once('x').unwrap_or((value, value));
    match (h.parse(), w.parse()) {
        (Ok(h), Ok(w)) if h > 0 && w > 0 => Ok([h, w]),
        _ => Err("expected a size such as 224 or 224x160".into()),
    }
}

/// Positive numbers separated by commas, in brackets or parentheses or without.
fn list(value: &str) -> std::result::Result<Vec<usize>, String> {
    let numbers = value.trim_matches(['[', ']', '(', ')']).trim_end_matches(',').split(',');
    let parse = |text: &str| text.trim().parse().ok().filter(|number| *number > 0);
    numbers.map(parse).collect::<Option<_>>().ok_or_else(|| "expected positive numbers such as 64,128".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_set_by_timm_names() {
        let mut options = ModelOptions::default();
        for (name, value) in [
            ("num_classes", "7"),
            ("global_pool", "catavgmax"),
            ("drop_path_rate", "0.1"),
            ("bn_tf", "True"),
            ("bn_momentum", "0.2"),
            ("img_size", "64x96"),
            ("act_layer", "silu"),
            ("layers", "(1, 2)"),
            ("channels", "[8,16]"),
            ("depthwise_conv2", "True"),
        ] {
            options.set(name, value).expect(name);
        }
        assert_eq!((options.num_classes, options.img_size), (7, Some([64, 96])));
        assert_eq!(options.global_pool, Pooling::Global(GlobalPool::CatAvgMax));
        assert_eq!(
            (options.layers.clone(), options.channels.as_deref()),
            (Some(vec![1, 2]), Some(&[8, 16][..]))
        );
        assert!(options.depthwise_conv2);
        assert_eq!(options.batch_norm(), BatchNormOptions { eps: 1e-3, momentum: Some(0.2), splits: 1 });
        for (name, value) in [
            ("drop_rate", "1"),
            ("classes", "7"),
            ("global_pool", "median"),
            ("img_size", "0"),
            ("layers", "1,0"),
        ] {
            let error = options.set(name, value).expect_err(name).to_string();
            assert!(error.contains(&format!("{name}={value}")), "{error}");
        }
    }
}
