//! Residual networks (He et al., "Deep residual learning for image recognition", 2016), under timm's names.
use super::ModelOptions;
use crate::layers::{BatchNorm2d, Conv2d, Linear, MaxPool2d, Sequential};
use crate::{Context, Kind, Layout, Module, Visitor, entries, init};
use fornax_engine::{Activation, GlobalPool, Pool2d, Result, Tensor};
use std::sync::Arc;

/// What tells one residual network from another.
#[derive(Clone, Debug)]
pub struct ResNetConfig<'a> {
    /// The first layers.
    pub stem: Stem,
    /// Channels of each stage; every stage but the first halves the resolution.
    pub widths: &'a [usize],
    /// Blocks of each stage.
    pub depths: &'a [usize],
    /// After each normalisation but the last of a block, and after each addition.
    pub activation: Activation,
    /// The second convolution of a block convolves each channel by itself.
    pub depthwise_conv2: bool,
}

/// The first layers of a residual network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// 7×7 at stride 2 and a 3×3 max pool at stride 2, for images of about 224 pixels.
    Large,
    /// 3×3 at stride 1, for images of 8 to 64 pixels.
    Small,
}

const fn relu(stem: Stem, widths: &'static [usize], depths: &'static [usize]) -> ResNetConfig<'static> {
    ResNetConfig { stem, widths, depths, activation: Activation::Relu, depthwise_conv2: false }
}

/// Name, description, design input size and configuration.
pub(super) const CONFIGS: &[(&str, &str, [usize; 2], ResNetConfig<'static>)] = &[
    (
        "resnet8",
        "6n+2 layers, n = 1, widths 16-32-64: for 8 to 32 pixels",
        [32, 32],
        relu(Stem::Small, &[16, 32, 64], &[1, 1, 1]),
    ),
    (
        "wide_resnet8_2",
        "resnet8 with twice the channels",
        [32, 32],
        relu(Stem::Small, &[32, 64, 128], &[1, 1, 1]),
    ),
    (
        "resnet20",
        "6n+2 layers, n = 3, widths 16-32-64: for 32 pixels",
        [32, 32],
        relu(Stem::Small, &[16, 32, 64], &[3, 3, 3]),
    ),
    (
        "cifar_resnet18",
        "ResNet-18 with a 3x3 stem and no max pool: for 32 pixels",
        [32, 32],
        relu(Stem::Small, &[64, 128, 256, 512], &[2, 2, 2, 2]),
    ),
    ("resnet18", "ResNet-18", [224, 224], relu(Stem::Large, &[64, 128, 256, 512], &[2, 2, 2, 2])),
    ("resnet34", "ResNet-34", [224, 224], relu(Stem::Large, &[64, 128, 256, 512], &[3, 4, 6, 3])),
];

/// A residual network of basic blocks.
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    activation: Activation,
    maxpool: Option<MaxPool2d>,
    stages: Vec<Sequential>,
    fc: Linear,
}

impl ResNet {
    /// A network with all weights zero; see [`ResNet::init_weights`].
    pub fn new(config: &ResNetConfig, options: &ModelOptions) -> Result<ResNet> {
        let mut channels = config.widths[0];
        let (conv1, maxpool) = match config.stem {
            Stem::Large => {
                let pool = Pool2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1], ..Pool2d::default() };
                (Conv2d::same(options.in_chans, channels, 7, 2)?, Some(MaxPool2d(pool)))
            }
            Stem::Small => (Conv2d::same(options.in_chans, channels, 3, 1)?, None),
        };
        let bn1 = BatchNorm2d::new(channels)?;
        let mut stages = vec![];
        for (stage, (&width, &depth)) in config.widths.iter().zip(config.depths).enumerate() {
            let mut blocks: Vec<Arc<dyn Module>> = vec![];
            for block in 0..depth {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                blocks.push(Arc::new(BasicBlock::new(channels, width, stride, config)?));
                channels = width;
            }
            stages.push(Sequential(blocks));
        }
        let fc = Linear::new(channels, options.num_classes)?;
        Ok(ResNet { conv1, bn1, activation: config.activation, maxpool, stages, fc })
    }

    /// timm's rule: Kaiming over the fan out for convolutions, ones and zeros for batch norm with the last weight of each
    /// block zero, so that blocks start as identities, and PyTorch's default for the classifier.
    pub fn init_weights(&self, seed: u64) -> Result<()> {
        for entry in entries(self).iter().filter(|e| e.kind == Kind::Parameter) {
            let draws = &mut init::stream(seed, &entry.name);
            if entry.layout == Layout::ConvWeight {
                init::kaiming_normal_fan_out(&entry.tensor, draws)?;
            } else if entry.name.starts_with("fc.") {
                init::torch_linear(&entry.tensor, self.fc.features(), draws)?;
            } else {
                let last = entry.name.ends_with(".bn2.weight");
                let one = entry.name.ends_with("weight") && !last;
                init::constant(&entry.tensor, if one { 1.0 } else { 0.0 })?;
            }
        }
        Ok(())
    }
}

impl Module for ResNet {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let mut x = self.conv1.forward_norm_act(x, &self.bn1, self.activation, None, cx)?;
        if let Some(pool) = &self.maxpool {
            x = pool.forward(&x, cx)?;
        }
        for stage in &self.stages {
            x = stage.forward(&x, cx)?;
        }
        self.fc.forward(&x.global_pool(GlobalPool::Avg)?, cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("conv1", &self.conv1);
        visitor.child("bn1", &self.bn1);
        for (i, stage) in self.stages.iter().enumerate() {
            visitor.child(&format!("layer{}", i + 1), stage);
        }
        visitor.child("fc", &self.fc);
    }
}

/// Two 3×3 convolutions and a shortcut.
struct BasicBlock {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    activation: Activation,
    downsample: Option<Downsample>,
}

/// The shortcut where stride or width changes: a 1×1 convolution and its normalisation.
struct Downsample {
    conv: Conv2d,
    bn: BatchNorm2d,
}

impl BasicBlock {
    fn new(c_in: usize, c_out: usize, stride: usize, config: &ResNetConfig) -> Result<BasicBlock> {
        let groups = if config.depthwise_conv2 { c_out } else { 1 };
        let changes = stride != 1 || c_in != c_out;
        Ok(BasicBlock {
            conv1: Conv2d::same(c_in, c_out, 3, stride)?,
            bn1: BatchNorm2d::new(c_out)?,
            conv2: Conv2d::grouped(c_out, c_out, 3, 1, groups)?,
            bn2: BatchNorm2d::new(c_out)?,
            activation: config.activation,
            downsample: changes
                .then(|| -> Result<_> {
                    Ok(Downsample {
                        conv: Conv2d::same(c_in, c_out, 1, stride)?,
                        bn: BatchNorm2d::new(c_out)?,
                    })
                })
                .transpose()?,
        })
    }
}

impl Module for BasicBlock {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let y = self.conv1.forward_norm_act(x, &self.bn1, self.activation, None, cx)?;
        let shortcut = match &self.downsample {
            Some(d) => d.conv.forward_norm_act(x, &d.bn, Activation::Identity, None, cx)?,
            None => x.clone(),
        };
        self.conv2.forward_norm_act(&y, &self.bn2, self.activation, Some(&shortcut), cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("conv1", &self.conv1);
        visitor.child("bn1", &self.bn1);
        visitor.child("conv2", &self.conv2);
        visitor.child("bn2", &self.bn2);
        if let Some(d) = &self.downsample {
            visitor.child("downsample.0", &d.conv);
            visitor.child("downsample.1", &d.bn);
        }
    }
}
