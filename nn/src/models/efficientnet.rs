//! Networks of inverted residuals, with timm's names: MobileNetV2 (Sandler et al., 2018), MobileNetV3 (Howard et al., 2019),
//! EfficientNet (Tan and Le, 2019).
mod block;
mod configs;

use self::block::{BlockArgs, ConvBnAct, InvertedResidual};
use super::make_divisible;
use super::model::{FeatureInfo, MATCH_PREV_GROUP, Model};
use super::options::{ModelOptions, SupportedOptions};
use crate::layers::{Activate, BatchNorm2d, ClassifierHead, Conv2d, Sequential};
use crate::precision::Operation;
use crate::{Context, Module, StateEntry, StateLayout, Visitor, init};
use fornax_engine::random::RngStream;
use fornax_engine::{Activation, GlobalPool, Result, Tensor};
use std::sync::Arc;

pub(super) use configs::MODELS;

/// Architecture of an EfficientNet, MobileNetV2 or MobileNetV3.
#[derive(Clone, Copy, Debug)]
pub struct EfficientNetConfig {
    /// Stages, each of one or more groups of blocks.
    pub stages: &'static [&'static [BlockGroup]],
    /// Output channels of the first convolution.
    pub stem: usize,
    /// Output channels of the last convolution.
    pub features: usize,
    /// The last convolution follows pooling and has no norm (MobileNetV3), instead of preceding it.
    pub pools_first: bool,
    /// Channel multiplier. Products are rounded to multiples of 8.
    pub width: f64,
    /// Depth multiplier. Products are rounded up.
    pub depth: f64,
    /// Activation after each norm but the last of a block.
    pub activation: Activation,
}

/// Group of consecutive blocks of one type.
#[derive(Clone, Copy, Debug)]
pub struct BlockGroup {
    /// Type of the blocks.
    pub kind: BlockType,
    /// Number of blocks.
    pub repeats: usize,
    /// Kernel size of the middle convolution.
    pub kernel: usize,
    /// Stride of the first block.
    pub stride: usize,
    /// Expansion ratio of the inner channels.
    pub expand: f64,
    /// Output channels.
    pub channels: usize,
    /// Squeeze-and-excitation with a reduction to a quarter of the channels.
    pub squeeze_excite: bool,
    /// Use ReLU instead of the model's activation.
    pub relu: bool,
}

/// Types of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    /// Depthwise and pointwise convolution.
    DepthwiseSeparable,
    /// Pointwise, depthwise and pointwise convolution (MBConv).
    InvertedResidual,
    /// Convolution, batch norm and activation.
    ConvBnAct,
}

impl EfficientNetConfig {
    fn rounded(&self, channels: usize) -> usize {
        make_divisible(channels as f64 * self.width, 8, 0.9)
    }
}

/// EfficientNet, MobileNetV2 or MobileNetV3.
pub struct EfficientNet {
    conv_stem: Conv2d,
    bn1: BatchNorm2d,
    blocks: Sequential,
    conv_head: Conv2d,
    /// Norm after the last convolution, or its activation if the convolution follows pooling.
    after_head: AfterHead,
    head: ClassifierHead,
    levels: Vec<FeatureInfo>,
}

enum AfterHead {
    Norm(BatchNorm2d),
    Activation(Activate),
}

impl EfficientNet {
    /// Model with all weights zero; see [`super::init_weights`].
    pub fn new(config: &EfficientNetConfig, options: &ModelOptions) -> crate::Result<EfficientNet> {
        options.check_supported(SupportedOptions {
            batch_norm: true,
            output_stride: !config.pools_first,
            ..SupportedOptions::default()
        })?;
        let norm = options.batch_norm();
        let activation = options.act_layer.unwrap_or(config.activation);
        let stem = config.rounded(config.stem);
        let repeats = |b: &BlockGroup| (b.repeats as f64 * config.depth).ceil() as usize;
        let total: usize = config.stages.iter().flat_map(|stage| stage.iter()).map(repeats).sum();
        let first_stride = |stage: usize| config.stages.get(stage).map_or(2, |stage| stage[0].stride);
        let (mut channels, mut stride, mut dilation, mut index) = (stem, 2, 1, 0);
        let mut levels = vec![];
        if first_stride(0) > 1 {
            levels.push(FeatureInfo::new("bn1", stem, stride));
        }
        let mut stages: Vec<Arc<dyn Module>> = vec![];
        for (i, stage) in config.stages.iter().enumerate() {
            let mut blocks: Vec<Arc<dyn Module>> = vec![];
            for (kind, of_kind) in stage.iter().flat_map(|b| (0..repeats(b)).map(move |i| (b, i))) {
                let mut step = if of_kind == 0 && blocks.is_empty() { kind.stride } else { 1 };
                let mut next_dilation = dilation;
                if step > 1 && stride * step > options.output_stride {
                    (next_dilation, step) = (dilation * step, 1);
                }
                stride *= step;
                let args = BlockArgs {
                    c_in: channels,
                    c_out: config.rounded(kind.channels),
                    stride: step,
                    dilation,
                    drop_path: options.drop_path_rate * index as f64 / total as f64,
                    activation: if kind.relu { Activation::Relu } else { activation },
                    mobile_v3: config.pools_first,
                };
                blocks.push(match kind.kind {
                    BlockType::ConvBnAct => Arc::new(ConvBnAct::new(kind, norm, &args)?),
                    _ => Arc::new(InvertedResidual::new(kind, norm, &args)?),
                });
                (channels, dilation) = (args.c_out, next_dilation);
                index += 1;
            }
            stages.push(Arc::new(Sequential::new(blocks)));
            if first_stride(i + 1) > 1 {
                levels.push(FeatureInfo::new(format!("blocks.{i}"), channels, stride));
            }
        }
        let pool = options.pool_type(GlobalPool::Avg)?;
        let (conv_head, after_head, head) = if config.pools_first {
            let bare = ModelOptions { num_classes: 0, ..options.clone() };
            let head = ClassifierHead::new(channels, pool, &bare)?.with_hidden(config.features, options)?;
            let conv = Conv2d::same(head.pooled(), config.features, 1, 1)?.with_bias()?;
            (conv, AfterHead::Activation(Activate::new(activation)), head)
        } else {
            let features = config.rounded(config.features).max(config.features);
            let norm = BatchNorm2d::new(features, norm)?.with_activation(activation);
            let head = ClassifierHead::new(features, pool, options)?;
            (Conv2d::same(channels, features, 1, 1)?, AfterHead::Norm(norm), head)
        };
        Ok(EfficientNet {
            conv_stem: Conv2d::same(options.in_chans, stem, 3, 2)?,
            bn1: BatchNorm2d::new(stem, norm)?.with_activation(activation),
            blocks: Sequential::new(stages),
            conv_head,
            after_head,
            head,
            levels,
        })
    }
}

impl Module for EfficientNet {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        self.forward_head(&self.forward_features(x, cx)?, false, cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("conv_stem", &self.conv_stem);
        visitor.child("bn1", &self.bn1);
        visitor.child("blocks", &self.blocks);
        match &self.after_head {
            AfterHead::Norm(norm) => {
                visitor.child("conv_head", &self.conv_head);
                visitor.child("bn2", norm);
                visitor.child("global_pool", &self.head.pool);
            }
            AfterHead::Activation(act) => {
                visitor.child("global_pool", &self.head.pool);
                visitor.child("conv_head", &self.conv_head);
                visitor.child("act2", act);
            }
        }
        if let Some(classifier) = self.head.classifier() {
            visitor.child("classifier", classifier);
        }
    }

    fn input_operation(&self) -> Operation {
        Operation::MatMul
    }
}

impl Model for EfficientNet {
    fn forward_features(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let x = self.conv_stem.forward_norm_act(x, &self.bn1, Activation::Identity, None, cx)?;
        let x = self.blocks.forward(&x, cx)?;
        match &self.after_head {
            AfterHead::Norm(norm) => {
                self.conv_head.forward_norm_act(&x, norm, Activation::Identity, None, cx)
            }
            AfterHead::Activation(_) => Ok(x),
        }
    }

    fn forward_head(&self, features: &Tensor, pre_logits: bool, cx: &mut Context) -> Result<Tensor> {
        let mut x = self.head.pool.forward(features, cx)?;
        if let AfterHead::Activation(act) = &self.after_head {
            if self.head.pool.kind.is_some() {
                x = x.reshape([x.dims()[0], 1, 1, x.dims()[1]])?;
            }
            x = act.forward(&self.conv_head.forward(&x, cx)?, cx)?;
            if self.head.pool.kind.is_some() {
                x = x.flatten(1)?;
            }
        }
        self.head.classify(&x, pre_logits, cx)
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.levels.clone()
    }

    fn head(&self) -> &ClassifierHead {
        &self.head
    }

    fn head_mut(&mut self) -> &mut ClassifierHead {
        &mut self.head
    }

    fn classifier_name(&self) -> &'static str {
        "classifier"
    }

    /// timm's (TensorFlow's) initialisation: Kaiming normal over the fan out of a group for convolutions, ones and zeros for batch norm,
    /// uniform in `±1 / sqrt(classes)` for the classifier, zero biases.
    fn init_parameter(&self, parameter: &StateEntry, _: usize, rng: &mut RngStream) -> Result<()> {
        let (name, tensor) = (parameter.name.as_str(), &parameter.tensor);
        if parameter.layout == StateLayout::ConvWeight {
            let groups = if name.ends_with("conv_dw.weight") { tensor.dims()[0] } else { 1 };
            init::kaiming_normal_fan_out_grouped(tensor, groups, rng)
        } else if name == "classifier.weight" {
            init::uniform(tensor, 1.0 / (tensor.dims()[0] as f64).sqrt(), rng)
        } else {
            init::constant(tensor, if name.ends_with("weight") { 1.0 } else { 0.0 })
        }
    }

    fn layer_group(&self, parameter: &str) -> Option<Vec<usize>> {
        if parameter.starts_with("conv_stem") || parameter.starts_with("bn1") {
            return Some(vec![0]);
        }
        if let (true, AfterHead::Norm(_)) =
            (parameter.starts_with("conv_head") || parameter.starts_with("bn2"), &self.after_head)
        {
            return Some(vec![1, MATCH_PREV_GROUP]);
        }
        let mut parts = parameter.strip_prefix("blocks.")?.split('.');
        Some(vec![1, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?])
    }
}
