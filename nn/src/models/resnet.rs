//! Residual networks (He et al., "Deep residual learning for image recognition", 2016) and variants, with timm's names: ResNet-D (He et al.,
//! "Bag of tricks", 2019), ResNeXt (Xie et al., 2017), SE-ResNet (Hu et al., 2018), wide ResNet (Zagoruyko and Komodakis, 2016).
mod block;
mod configs;

use self::block::{ResidualBlock, ResidualBlockArgs};
use super::model::{FeatureInfo, Model};
use super::options::{ModelOptions, SupportedOptions, unsupported};
use crate::layers::{Activate, BatchNorm2d, BatchNormOptions, ClassifierHead, Conv2d, MaxPool2d, Sequential};
use crate::precision::Operation;
use crate::{Context, Module, StateEntry, StateLayout, Visitor, init};
use fornax_engine::random::RngStream;
use fornax_engine::{Activation, GlobalPool, Pool2dOptions, Result, Tensor};
use std::sync::Arc;

pub(super) use configs::MODELS;

/// Architecture of a residual network.
#[derive(Clone, Debug)]
pub struct ResNetConfig<'a> {
    /// Stem type.
    pub stem: ResNetStem,
    /// Inner channels of the blocks of each stage. Every stage but the first halves the resolution.
    pub widths: &'a [usize],
    /// Number of blocks of each stage.
    pub depths: &'a [usize],
    /// Bottleneck blocks (1×1, 3×3, 1×1 with expansion 4) instead of basic blocks (3×3, 3×3).
    pub bottleneck: bool,
    /// Channel groups of the 3×3 convolution of a bottleneck: timm's `cardinality`.
    pub groups: usize,
    /// Channels per group in the first stage, scaled with the stage's width: timm's `base_width`.
    pub group_width: usize,
    /// Average pooling in the downsampling shortcut, instead of a strided convolution: timm's `avg_down`.
    pub average_down: bool,
    /// Squeeze-and-excitation at the end of each block.
    pub squeeze_excite: bool,
    /// Activation after each norm but the last of a block, and after each residual addition.
    pub activation: Activation,
    /// The second convolution of a basic block is depthwise.
    pub depthwise_conv2: bool,
}

/// Stem of a residual network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResNetStem {
    /// 7×7 convolution at stride 2 and 3×3 max pooling at stride 2, for images of about 224 pixels.
    Large,
    /// Three 3×3 convolutions with 32, 32 and 64 channels, the first at stride 2, and 3×3 max pooling at stride 2.
    Deep,
    /// 3×3 convolution at stride 1, for images of 8 to 64 pixels.
    Small,
}

impl ResNetConfig<'static> {
    /// ResNet-18: basic blocks with ReLU.
    pub const BASIC: ResNetConfig<'static> = ResNetConfig {
        stem: ResNetStem::Large,
        widths: &[64, 128, 256, 512],
        depths: &[2, 2, 2, 2],
        bottleneck: false,
        groups: 1,
        group_width: 64,
        average_down: false,
        squeeze_excite: false,
        activation: Activation::Relu,
        depthwise_conv2: false,
    };
}

impl ResNetConfig<'_> {
    /// The configuration with the stages that the options give.
    fn with_options<'a>(&'a self, options: &'a ModelOptions) -> crate::Result<ResNetConfig<'a>> {
        let widths = options.channels.as_deref().unwrap_or(self.widths);
        let depths = options.layers.as_deref().unwrap_or(self.depths);
        if widths.len() != depths.len() {
            let (channels, layers) = (widths.len(), depths.len());
            let why = format!("{channels} channels and {layers} layers: a stage needs one of each");
            return Err(unsupported("channels, layers", &why));
        }
        if options.depthwise_conv2 && self.bottleneck {
            return Err(unsupported("depthwise_conv2", "only basic blocks support it"));
        }
        let depthwise_conv2 = options.depthwise_conv2 || self.depthwise_conv2;
        Ok(ResNetConfig { widths, depths, depthwise_conv2, ..self.clone() })
    }

    /// Ratio of a block's output channels to its inner channels.
    fn expansion(&self) -> usize {
        if self.bottleneck { 4 } else { 1 }
    }
}

/// Residual network.
pub struct ResNet {
    conv1: StemConv,
    bn1: BatchNorm2d,
    act1: Activate,
    maxpool: Option<MaxPool2d>,
    stages: Vec<Sequential>,
    head: ClassifierHead,
    levels: Vec<FeatureInfo>,
    last_norm: &'static str,
}

impl ResNet {
    /// Model with all weights zero; see [`super::init_weights`].
    pub fn new(config: &ResNetConfig, options: &ModelOptions) -> crate::Result<ResNet> {
        options.check_supported(SupportedOptions {
            batch_norm: true,
            drop_block: true,
            output_stride: true,
            img_size: false,
            stages: true,
        })?;
        let config = &config.with_options(options)?;
        let norm = options.batch_norm();
        let activation = options.act_layer.unwrap_or(config.activation);
        let stem = if config.stem == ResNetStem::Small { config.widths[0] } else { 64 };
        let conv1 = StemConv::new(config.stem, options.in_chans, stem, activation, norm)?;
        let pool =
            Pool2dOptions { kernel: [3, 3], stride: [2, 2], padding: [1, 1], ..Pool2dOptions::default() };
        let mut stride: usize = if config.stem == ResNetStem::Small { 1 } else { 4 };
        let mut levels = vec![FeatureInfo::new("act1", stem, stride.div_ceil(2))];
        let total: usize = config.depths.iter().sum();
        let (mut channels, mut dilation, mut before, mut index) = (stem, 1, 1, 0);
        let mut stages = vec![];
        for (stage, (&width, &depth)) in config.widths.iter().zip(config.depths).enumerate() {
            let mut step = if stage > 0 { 2 } else { 1 };
            if stride >= options.output_stride {
                dilation *= step;
                step = 1;
            }
            stride *= step;
            let mut blocks: Vec<Arc<dyn Module>> = vec![];
            for block in 0..depth {
                let args = ResidualBlockArgs {
                    c_in: channels,
                    width,
                    stride: if block == 0 { step } else { 1 },
                    first_dilation: before,
                    dilation,
                    downsamples: block == 0 && (step != 1 || channels != width * config.expansion()),
                    drop_path: options.drop_path_rate * index as f64 / (total.max(2) - 1) as f64,
                    drop_block: (stage >= 2).then_some((options.drop_block_rate, stage)),
                };
                blocks.push(Arc::new(ResidualBlock::new(config, activation, norm, &args)?));
                (channels, before) = (width * config.expansion(), dilation);
                index += 1;
            }
            stages.push(Sequential::new(blocks));
            levels.push(FeatureInfo::new(format!("layer{}", stage + 1), channels, stride));
        }
        Ok(ResNet {
            conv1,
            bn1: BatchNorm2d::new(stem, norm)?,
            act1: Activate::new(activation),
            maxpool: (config.stem != ResNetStem::Small).then_some(MaxPool2d::new(pool)),
            stages,
            head: ClassifierHead::new(channels, options.pool_type(GlobalPool::Avg)?, options)?,
            levels,
            last_norm: if config.bottleneck { ".bn3.weight" } else { ".bn2.weight" },
        })
    }
}

impl Module for ResNet {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        self.forward_head(&self.forward_features(x, cx)?, false, cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        self.conv1.visit(visitor);
        visitor.child("bn1", &self.bn1);
        visitor.child("act1", &self.act1);
        if let Some(pool) = &self.maxpool {
            visitor.child("maxpool", pool);
        }
        for (i, stage) in self.stages.iter().enumerate() {
            visitor.child(&format!("layer{}", i + 1), stage);
        }
        visitor.child("global_pool", &self.head.pool);
        if let Some(fc) = self.head.classifier() {
            visitor.child("fc", fc);
        }
    }

    fn input_operation(&self) -> Operation {
        Operation::MatMul
    }
}

impl Model for ResNet {
    fn forward_features(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let x = self.conv1.forward_before(x, cx)?;
        let (conv, kind) = (&self.conv1.last, self.act1.kind());
        let captures_act = self.act1.layer_info().is_some_and(|info| cx.captures(info));
        let mut x = match &self.maxpool {
            Some(pool) if conv.fuses_with(&self.bn1, cx) && !captures_act => {
                conv.forward_norm_act_pool(&x, &self.bn1, kind, pool, cx)?
            }
            pool => {
                let y = conv.forward_norm_act(&x, &self.bn1, kind, None, cx)?;
                let y = self.act1.capture_fused(y, cx);
                pool.as_ref().map_or(Ok(y.clone()), |pool| pool.forward(&y, cx))?
            }
        };
        for stage in &self.stages {
            x = stage.forward(&x, cx)?;
        }
        Ok(x)
    }

    fn forward_head(&self, features: &Tensor, pre_logits: bool, cx: &mut Context) -> Result<Tensor> {
        self.head.classify(&self.head.pool.forward(features, cx)?, pre_logits, cx)
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
        "fc"
    }

    /// timm's initialisation: Kaiming normal over the fan out for convolutions, ones and zeros for batch norm, zero for the last batch norm
    /// weight of each block (`zero_init_last`), and PyTorch's defaults for the classifier and for biases.
    fn init_parameter(&self, parameter: &StateEntry, fan_in: usize, rng: &mut RngStream) -> Result<()> {
        let (name, tensor) = (parameter.name.as_str(), &parameter.tensor);
        if parameter.layout == StateLayout::ConvWeight {
            init::kaiming_normal_fan_out(tensor, rng)
        } else if name.starts_with("fc.") || name.ends_with("fc1.bias") || name.ends_with("fc2.bias") {
            init::linear_default(tensor, fan_in, rng)
        } else {
            let one =
                name.ends_with("weight") && !(name.starts_with("layer") && name.ends_with(self.last_norm));
            init::constant(tensor, if one { 1.0 } else { 0.0 })
        }
    }

    fn layer_group(&self, parameter: &str) -> Option<Vec<usize>> {
        if parameter.starts_with("conv1") || parameter.starts_with("bn1") {
            return Some(vec![0]);
        }
        let (stage, block) = parameter.strip_prefix("layer")?.split_once('.')?;
        Some(vec![1, stage.parse().ok()?, block.split('.').next()?.parse().ok()?])
    }
}

/// Convolutions of the stem, one or three, up to the norm `bn1`.
struct StemConv {
    before: Vec<(Conv2d, BatchNorm2d, Activate)>,
    last: Conv2d,
}

impl StemConv {
    fn new(
        stem: ResNetStem,
        c_in: usize,
        c_out: usize,
        activation: Activation,
        norm: BatchNormOptions,
    ) -> Result<StemConv> {
        let layer = |c_in, stride| {
            Ok((Conv2d::same(c_in, 32, 3, stride)?, BatchNorm2d::new(32, norm)?, Activate::new(activation)))
        };
        Ok(match stem {
            ResNetStem::Large => StemConv { before: vec![], last: Conv2d::same(c_in, c_out, 7, 2)? },
            ResNetStem::Small => StemConv { before: vec![], last: Conv2d::same(c_in, c_out, 3, 1)? },
            ResNetStem::Deep => StemConv {
                before: vec![layer(c_in, 2)?, layer(32, 1)?],
                last: Conv2d::same(32, c_out, 3, 1)?,
            },
        })
    }

    /// Output of the layers before the last convolution.
    fn forward_before(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        self.before.iter().try_fold(x.clone(), |x, (conv, norm, act)| {
            let y = conv.forward_norm_act(&x, norm, act.kind(), None, cx)?;
            Ok(act.capture_fused(y, cx))
        })
    }

    fn visit(&self, visitor: &mut Visitor) {
        if self.before.is_empty() {
            return visitor.child("conv1", &self.last);
        }
        for (i, (conv, norm, act)) in self.before.iter().enumerate() {
            visitor.child(&format!("conv1.{}", 3 * i), conv);
            visitor.child(&format!("conv1.{}", 3 * i + 1), norm);
            visitor.child(&format!("conv1.{}", 3 * i + 2), act);
        }
        visitor.child(&format!("conv1.{}", 3 * self.before.len()), &self.last);
    }
}
