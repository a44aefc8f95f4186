//! RegNet (Radosavovic et al., "Designing network design spaces", 2020) with squeeze-and-excitation (RegNetY), with timm's names.
use super::drop_path_rates;
use super::model::{FeatureInfo, Model};
use super::options::{ModelOptions, SupportedOptions};
use super::registry::{Family, ModelInfo, PretrainedCfg};
use crate::capture::LayerInfo;
use crate::layers::squeeze_excite::SqueezeExciteNames;
use crate::layers::{
    Activate, BatchNorm2d, BatchNormOptions, ClassifierHead, Conv2d, DropPath, Sequential, SqueezeExcite,
};
use crate::precision::Operation;
use crate::{Context, Module, StateEntry, StateLayout, Visitor, init};
use fornax_engine::random::RngStream;
use fornax_engine::{Activation, GlobalPool, Result, Tensor};
use std::sync::Arc;

/// Architecture of a RegNet. The width of block `i` is `w0 + wa * i`, quantised to `w0` times a power of `wm` and rounded to a multiple
/// of 8.
#[derive(Clone, Copy, Debug)]
pub struct RegNetConfig {
    /// Width of the first block.
    pub w0: usize,
    /// Increase of the width per block.
    pub wa: f64,
    /// Ratio of the widths of consecutive stages.
    pub wm: f64,
    /// Channels per convolution group.
    pub group_size: usize,
    /// Total number of blocks.
    pub depth: usize,
    /// Ratio of the squeeze-and-excitation channels to a block's input channels.
    pub se_ratio: f64,
}

const STEM: usize = 32;
const DATA: PretrainedCfg =
    PretrainedCfg { first_conv: "stem.conv", classifier: "head.fc", ..PretrainedCfg::IMAGENET };
const WIDE_CROP: PretrainedCfg = PretrainedCfg { crop_pct: 0.965, tag: Some("tv2_in1k"), ..DATA };
const PYCLS: PretrainedCfg = PretrainedCfg { tag: Some("pycls_in1k"), ..DATA };

const fn config(w0: usize, wa: f64, wm: f64, group_size: usize, depth: usize) -> RegNetConfig {
    RegNetConfig { w0, wa, wm, group_size, depth, se_ratio: 0.25 }
}

const fn model(
    name: &'static str,
    about: &'static str,
    config: &'static RegNetConfig,
    data: PretrainedCfg,
) -> ModelInfo {
    ModelInfo { name, description: about, family: Family::RegNet(config), pretrained_cfg: data }
}

/// All RegNet models.
pub(super) const MODELS: &[ModelInfo] = &[
    model("regnety_002", "RegNetY of 200 million MACs", &config(24, 36.44, 2.49, 8, 13), PYCLS),
    model("regnety_004", "RegNetY of 400 million MACs", &config(48, 27.89, 2.09, 8, 16), WIDE_CROP),
    model("regnety_006", "RegNetY of 600 million MACs", &config(48, 32.54, 2.32, 16, 15), PYCLS),
    model("regnety_008", "RegNetY of 800 million MACs", &config(56, 38.84, 2.4, 16, 14), PYCLS),
    model("regnety_016", "RegNetY of 1.6 billion MACs", &config(48, 20.71, 2.65, 24, 27), WIDE_CROP),
];

impl RegNetConfig {
    /// Width and depth of each stage.
    fn stages(&self) -> Vec<(usize, usize)> {
        let mut stages: Vec<(usize, usize)> = vec![];
        for block in 0..self.depth {
            let width = block as f64 * self.wa + self.w0 as f64;
            let power = ((width / self.w0 as f64).ln() / self.wm.ln()).round_ties_even();
            let width = (self.w0 as f64 * self.wm.powf(power) / 8.0).round_ties_even() as usize * 8;
            match stages.last_mut() {
                Some((last, depth)) if *last == width => *depth += 1,
                _ => stages.push((width, 1)),
            }
        }
        stages
    }

    /// Width rounded to a multiple of the group size.
    fn grouped(&self, width: usize) -> usize {
        let group = self.group_size.min(width);
        (width as f64 / group as f64).round_ties_even() as usize * group
    }
}

/// RegNet.
pub struct RegNet {
    stem: ConvNormAct,
    stages: Vec<Sequential>,
    head: ClassifierHead,
    levels: Vec<FeatureInfo>,
}

impl RegNet {
    /// Model with all weights zero; see [`super::init_weights`].
    pub fn new(config: &RegNetConfig, options: &ModelOptions) -> crate::Result<RegNet> {
        options.check_supported(SupportedOptions {
            batch_norm: true,
            output_stride: true,
            ..SupportedOptions::default()
        })?;
        let norm = options.batch_norm();
        let act = options.act_layer.unwrap_or(Activation::Relu);
        let stem = ConvNormAct::new(Conv2d::same(options.in_chans, STEM, 3, 2)?, STEM, act, norm)?;
        let mut levels = vec![FeatureInfo::new("stem", STEM, 2)];
        let mut rates = drop_path_rates(options.drop_path_rate, config.depth);
        let (mut channels, mut stride, mut dilation, mut stages) = (STEM, 2, 1, vec![]);
        for (i, (width, depth)) in config.stages().into_iter().enumerate() {
            let width = config.grouped(width);
            let before = dilation;
            let step = if stride >= options.output_stride { 1 } else { 2 };
            (stride, dilation) = if step == 1 { (stride, dilation * 2) } else { (stride * 2, dilation) };
            let mut blocks = vec![];
            for (block, drop_path) in (0..depth).zip(&mut rates) {
                let first = block == 0;
                let args = BottleneckArgs {
                    c_in: channels,
                    c_out: width,
                    stride: if first { step } else { 1 },
                    dilation: if first { before } else { dilation },
                    drop_path,
                };
                let block: Arc<dyn Module> = Arc::new(Bottleneck::new(config, act, norm, &args)?);
                blocks.push((format!("b{}", blocks.len() + 1), block));
                channels = width;
            }
            stages.push(Sequential::named(blocks));
            levels.push(FeatureInfo::new(format!("s{}", i + 1), width, stride));
        }
        let head = ClassifierHead::new(channels, options.pool_type(GlobalPool::Avg)?, options)?;
        Ok(RegNet { stem, stages, head, levels })
    }
}

impl Module for RegNet {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        self.forward_head(&self.forward_features(x, cx)?, false, cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("stem", &self.stem);
        for (i, stage) in self.stages.iter().enumerate() {
            visitor.child(&format!("s{}", i + 1), stage);
        }
        visitor.child("head.global_pool", &self.head.pool);
        if let Some(fc) = self.head.classifier() {
            visitor.child("head.fc", fc);
        }
    }

    fn input_operation(&self) -> Operation {
        Operation::MatMul
    }
}

impl Model for RegNet {
    fn forward_features(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let x = self.stem.forward(x, cx)?;
        self.stages.iter().try_fold(x, |x, stage| stage.forward(&x, cx))
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
        "head.fc"
    }

    /// timm's initialisation: Kaiming normal over the fan out of a group for convolutions, normal with std 0.01 for the classifier, zero
    /// biases, and zero for the last batch norm weight of each block.
    fn init_parameter(&self, parameter: &StateEntry, _: usize, rng: &mut RngStream) -> Result<()> {
        let (name, tensor) = (parameter.name.as_str(), &parameter.tensor);
        if parameter.layout == StateLayout::ConvWeight {
            // For grouped convolutions, the input axis of the weight is one group.
            let groups =
                if name.ends_with("conv2.conv.weight") { tensor.dims()[0] / tensor.dims()[3] } else { 1 };
            init::kaiming_normal_fan_out_grouped(tensor, groups, rng)
        } else if name == "head.fc.weight" {
            init::normal(tensor, 0.01, rng)
        } else {
            let one = name.ends_with("weight") && !name.ends_with("conv3.bn.weight");
            init::constant(tensor, if one { 1.0 } else { 0.0 })
        }
    }

    fn layer_group(&self, parameter: &str) -> Option<Vec<usize>> {
        if parameter.starts_with("stem") {
            return Some(vec![0]);
        }
        let mut parts = parameter.split('.');
        let stage = parts.next()?.strip_prefix('s')?.parse().ok()?;
        let block = parts.next()?.strip_prefix('b')?.parse().ok()?;
        Some(vec![1, stage, block])
    }
}

/// Convolution, batch norm and optional activation: timm's `ConvNormAct`.
struct ConvNormAct {
    conv: Conv2d,
    bn: BatchNorm2d,
    info: LayerInfo,
}

impl ConvNormAct {
    fn new(conv: Conv2d, channels: usize, act: Activation, norm: BatchNormOptions) -> Result<ConvNormAct> {
        let bn = BatchNorm2d::new(channels, norm)?.with_activation(act);
        Ok(ConvNormAct { conv, bn, info: LayerInfo::container() })
    }
}

impl Module for ConvNormAct {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let y = self.conv.forward_norm_act(x, &self.bn, Activation::Identity, None, cx)?;
        Ok(cx.capture(&self.info, y, 0))
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("conv", &self.conv);
        visitor.child("bn", &self.bn);
    }

    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}

/// Arguments of one block.
struct BottleneckArgs {
    c_in: usize,
    c_out: usize,
    stride: usize,
    dilation: usize,
    drop_path: f64,
}

/// Bottleneck block: 1×1 convolution, grouped 3×3 convolution, squeeze-and-excitation, 1×1 convolution, and a residual connection.
struct Bottleneck {
    conv1: ConvNormAct,
    conv2: ConvNormAct,
    se: SqueezeExcite,
    conv3: ConvNormAct,
    act3: Activate,
    downsample: Option<ConvNormAct>,
    drop_path: DropPath,
    info: LayerInfo,
}

impl Bottleneck {
    fn new(
        config: &RegNetConfig,
        act: Activation,
        norm: BatchNormOptions,
        args: &BottleneckArgs,
    ) -> Result<Bottleneck> {
        let &BottleneckArgs { c_in, c_out, stride, dilation, drop_path } = args;
        let groups = c_out / config.group_size.min(c_out);
        let reduced = (c_in as f64 * config.se_ratio).round_ties_even() as usize;
        let middle = Conv2d::grouped(c_out, c_out, 3, stride, groups)?.dilated(dilation);
        let down =
            || ConvNormAct::new(Conv2d::same(c_in, c_out, 1, stride)?, c_out, Activation::Identity, norm);
        Ok(Bottleneck {
            conv1: ConvNormAct::new(Conv2d::same(c_in, c_out, 1, 1)?, c_out, act, norm)?,
            conv2: ConvNormAct::new(middle, c_out, act, norm)?,
            se: SqueezeExcite::new(SqueezeExciteNames::Fc, c_out, reduced, act, Activation::Sigmoid)?,
            conv3: ConvNormAct::new(Conv2d::same(c_out, c_out, 1, 1)?, c_out, Activation::Identity, norm)?,
            act3: Activate::new(act),
            downsample: (c_in != c_out || stride != 1).then(down).transpose()?,
            drop_path: DropPath::new(drop_path),
            info: LayerInfo::container(),
        })
    }
}

impl Module for Bottleneck {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let y = self.conv2.forward(&self.conv1.forward(x, cx)?, cx)?;
        let y = self.se.forward(&y, cx)?;
        let shortcut = self.downsample.as_ref().map_or(Ok(x.clone()), |down| down.forward(x, cx))?;
        let captured = self.conv3.layer_info().is_some_and(|info| cx.captures(info));
        let y = if self.drop_path.is_active(cx) || captured {
            let y = self.drop_path.forward(&self.conv3.forward(&y, cx)?, cx)?;
            self.act3.forward(&y.add(&shortcut)?, cx)?
        } else {
            let (conv, bn) = (&self.conv3.conv, &self.conv3.bn);
            let y = conv.forward_norm_act(&y, bn, self.act3.kind(), Some(&shortcut), cx)?;
            self.act3.capture_fused(y, cx)
        };
        Ok(cx.capture(&self.info, y, 0))
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("conv1", &self.conv1);
        visitor.child("conv2", &self.conv2);
        visitor.child("se", &self.se);
        visitor.child("conv3", &self.conv3);
        visitor.child("act3", &self.act3);
        if let Some(downsample) = &self.downsample {
            visitor.child("downsample", downsample);
        }
        visitor.child("drop_path", &self.drop_path);
    }

    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}
