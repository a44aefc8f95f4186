//! ConvNeXt (Liu et al., "A ConvNet for the 2020s", 2022), with timm's names.
use super::drop_path_rates;
use super::model::{FeatureInfo, Model};
use super::options::{ModelOptions, SupportedOptions, unsupported};
use super::registry::{Family, ModelInfo, PretrainedCfg};
use crate::capture::LayerInfo;
use crate::layers::{ClassifierHead, Conv2d, ConvMlp, DropPath, LayerNorm, Mlp, Sequential, in_dtype};
use crate::precision::Operation;
use crate::{Context, Module, StateEntry, Visitor, init};
use fornax_engine::random::RngStream;
use fornax_engine::{Activation, Conv2dOptions as ConvOptions, DType, Device, GlobalPool, Result, Tensor};
use std::sync::Arc;

/// Architecture of a ConvNeXt.
#[derive(Clone, Copy, Debug)]
pub struct ConvNeXtConfig {
    /// Number of blocks of each stage.
    pub depths: [usize; 4],
    /// Channels of each stage.
    pub dims: [usize; 4],
    /// The MLP of a block consists of 1×1 convolutions, whose weights have four axes.
    pub conv_mlp: bool,
}

const EPS: f64 = 1e-6;
const LAYER_SCALE: f32 = 1e-6;

/// Trained at 224 pixels, evaluated at 288.
const DATA: PretrainedCfg = PretrainedCfg {
    test_input_size: Some([288, 288]),
    test_crop_pct: Some(0.95),
    first_conv: "stem.0",
    classifier: "head.fc",
    ..PretrainedCfg::IMAGENET
};
const FINE_TUNED: PretrainedCfg =
    PretrainedCfg { crop_pct: 0.95, test_crop_pct: Some(1.0), tag: Some("in12k_ft_in1k"), ..DATA };

const fn config(depths: [usize; 4], width: usize, conv_mlp: bool) -> ConvNeXtConfig {
    ConvNeXtConfig { depths, dims: [width, 2 * width, 4 * width, 8 * width], conv_mlp }
}

const fn model(
    name: &'static str,
    about: &'static str,
    config: &'static ConvNeXtConfig,
    data: PretrainedCfg,
) -> ModelInfo {
    ModelInfo { name, description: about, family: Family::ConvNeXt(config), pretrained_cfg: data }
}

/// All ConvNeXt models.
pub(super) const MODELS: &[ModelInfo] = &[
    model(
        "convnext_atto",
        "ConvNeXt of width 40",
        &config([2, 2, 6, 2], 40, true),
        PretrainedCfg { tag: Some("d2_in1k"), ..DATA },
    ),
    model(
        "convnext_femto",
        "ConvNeXt of width 48",
        &config([2, 2, 6, 2], 48, true),
        PretrainedCfg { tag: Some("d1_in1k"), ..DATA },
    ),
    model(
        "convnext_pico",
        "ConvNeXt of width 64",
        &config([2, 2, 6, 2], 64, true),
        PretrainedCfg { tag: Some("d1_in1k"), ..DATA },
    ),
    model("convnext_nano", "ConvNeXt of width 80", &config([2, 2, 8, 2], 80, true), FINE_TUNED),
    model("convnext_tiny", "ConvNeXt-T", &config([3, 3, 9, 3], 96, false), FINE_TUNED),
    model("convnext_small", "ConvNeXt-S", &config([3, 3, 27, 3], 96, false), FINE_TUNED),
    model(
        "convnext_base",
        "ConvNeXt-B",
        &config([3, 3, 27, 3], 128, false),
        PretrainedCfg { test_crop_pct: Some(1.0), tag: Some("fb_in22k_ft_in1k"), ..DATA },
    ),
];

/// ConvNeXt.
pub struct ConvNeXt {
    stem: (Conv2d, LayerNorm),
    stages: Vec<ConvNeXtStage>,
    norm: LayerNorm,
    head: ClassifierHead,
    levels: Vec<FeatureInfo>,
}

impl ConvNeXt {
    /// Model with all weights zero; see [`super::init_weights`].
    pub fn new(config: &ConvNeXtConfig, options: &ModelOptions) -> crate::Result<ConvNeXt> {
        options.check_supported(SupportedOptions { output_stride: true, ..SupportedOptions::default() })?;
        let pool = options.pool_type(GlobalPool::Avg)?;
        if matches!(pool, Some(GlobalPool::CatAvgMax | GlobalPool::FastCatAvgMax)) {
            return Err(unsupported(
                "global_pool=catavgmax",
                "the norm after pooling has the width of the feature maps",
            ));
        }
        let activation = options.act_layer.unwrap_or(Activation::Gelu);
        let mut rates = drop_path_rates(options.drop_path_rate, config.depths.iter().sum());
        let (mut channels, mut stride, mut dilation) = (config.dims[0], 4, 1);
        let (mut stages, mut levels) = (vec![], vec![]);
        for (i, (&depth, &width)) in config.depths.iter().zip(&config.dims).enumerate() {
            let mut step = if i > 0 { 2 } else { 1 };
            if stride >= options.output_stride && step > 1 {
                (dilation, step) = (dilation * step, 1);
            }
            stride *= step;
            let downsample = match i {
                0 => None,
                _ => Some(ConvNeXtDownsample::new(channels, width, step, dilation)?),
            };
            let mut blocks: Vec<Arc<dyn Module>> = vec![];
            for drop_path in rates.by_ref().take(depth) {
                blocks.push(Arc::new(ConvNeXtBlock::new(config, activation, width, dilation, drop_path)?));
            }
            channels = width;
            stages.push(ConvNeXtStage {
                downsample,
                blocks: Sequential::new(blocks),
                info: LayerInfo::container(),
            });
            levels.push(FeatureInfo::new(format!("stages.{i}"), channels, stride));
        }
        Ok(ConvNeXt {
            stem: (
                Conv2d::patchify(options.in_chans, config.dims[0], 4)?.with_bias()?,
                LayerNorm::new(config.dims[0], EPS)?,
            ),
            stages,
            norm: LayerNorm::new(channels, EPS)?,
            head: ClassifierHead::new(channels, pool, options)?,
            levels,
        })
    }
}

impl Module for ConvNeXt {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        self.forward_head(&self.forward_features(x, cx)?, false, cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("stem.0", &self.stem.0);
        visitor.child("stem.1", &self.stem.1);
        for (i, stage) in self.stages.iter().enumerate() {
            visitor.child(&format!("stages.{i}"), stage);
        }
        visitor.child("head.global_pool", &self.head.pool);
        visitor.child("head.norm", &self.norm);
        if let Some(fc) = self.head.classifier() {
            visitor.child("head.fc", fc);
        }
    }

    fn input_operation(&self) -> Operation {
        Operation::MatMul
    }
}

impl Model for ConvNeXt {
    fn forward_features(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let x = self.stem.1.forward(&self.stem.0.forward(x, cx)?, cx)?;
        self.stages.iter().try_fold(x, |x, stage| stage.forward(&x, cx))
    }

    fn forward_head(&self, features: &Tensor, pre_logits: bool, cx: &mut Context) -> Result<Tensor> {
        let pooled = self.norm.forward(&self.head.pool.forward(features, cx)?, cx)?;
        self.head.classify(&pooled, pre_logits, cx)
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

    /// timm's initialisation: truncated normal with std 0.02 for convolutions and linear layers, zero biases, layer scale 1e-6.
    fn init_parameter(&self, parameter: &StateEntry, _: usize, rng: &mut RngStream) -> Result<()> {
        let (name, tensor) = (parameter.name.as_str(), &parameter.tensor);
        if tensor.rank() > 1 {
            init::trunc_normal(tensor, 0.02, rng)
        } else if name.ends_with("gamma") {
            init::constant(tensor, LAYER_SCALE)
        } else {
            init::constant(tensor, if name.ends_with("weight") { 1.0 } else { 0.0 })
        }
    }

    fn layer_group(&self, parameter: &str) -> Option<Vec<usize>> {
        if parameter.starts_with("stem") {
            return Some(vec![0]);
        }
        let mut parts = parameter.strip_prefix("stages.")?.split('.');
        let stage = parts.next()?.parse().ok()?;
        let block = if parts.next()? == "blocks" { parts.next()?.parse().ok()? } else { 0 };
        Some(vec![1, stage, block])
    }
}

/// Stage: downsampling and blocks of one width.
struct ConvNeXtStage {
    downsample: Option<ConvNeXtDownsample>,
    blocks: Sequential,
    info: LayerInfo,
}

impl Module for ConvNeXtStage {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let x = self.downsample.as_ref().map_or(Ok(x.clone()), |downsample| downsample.forward(x, cx))?;
        let y = self.blocks.forward(&x, cx)?;
        Ok(cx.capture(&self.info, y, 0))
    }

    fn visit(&self, visitor: &mut Visitor) {
        if let Some(downsample) = &self.downsample {
            visitor.child("downsample", downsample);
        }
        visitor.child("blocks", &self.blocks);
    }

    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}

/// Downsampling layer: layer norm and 2×2 convolution, at stride 2 or dilated.
struct ConvNeXtDownsample {
    norm: LayerNorm,
    conv: Conv2d,
    /// Zero padding before and after the image, along both axes.
    pad: (usize, usize),
}

impl ConvNeXtDownsample {
    fn new(c_in: usize, c_out: usize, stride: usize, dilation: usize) -> Result<ConvNeXtDownsample> {
        // The convolution before a stage with dilation 4 has the dilation of the previous stage, 2.
        let own = if dilation > 2 { 2 } else { 1 };
        let options = ConvOptions { stride: [stride; 2], dilation: [own; 2], ..ConvOptions::default() };
        let pad = if dilation > 1 { (own / 2, own - own / 2) } else { (0, 0) };
        let conv = Conv2d::new(c_in, c_out, 2, options)?.with_bias()?;
        Ok(ConvNeXtDownsample { norm: LayerNorm::new(c_in, EPS)?, conv, pad })
    }
}

impl Module for ConvNeXtDownsample {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let mut x = self.norm.forward(x, cx)?;
        if self.pad != (0, 0) {
            x = x.pad(&[(0, 0), self.pad, self.pad, (0, 0)], 0.0)?;
        }
        self.conv.forward(&x, cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("0", &self.norm);
        visitor.child("1", &self.conv);
    }
}

/// ConvNeXt block: 7×7 depthwise convolution, layer norm, MLP over the channels, layer scale, and a residual connection.
struct ConvNeXtBlock {
    conv_dw: Conv2d,
    norm: LayerNorm,
    mlp: Box<dyn Module>,
    gamma: Tensor,
    drop_path: DropPath,
    info: LayerInfo,
}

impl ConvNeXtBlock {
    fn new(
        config: &ConvNeXtConfig,
        activation: Activation,
        width: usize,
        dilation: usize,
        drop_path: f64,
    ) -> Result<ConvNeXtBlock> {
        Ok(ConvNeXtBlock {
            conv_dw: Conv2d::grouped(width, width, 7, 1, width)?.dilated(dilation).with_bias()?,
            norm: LayerNorm::new(width, EPS)?,
            mlp: match config.conv_mlp {
                true => Box::new(ConvMlp::new(width, 4 * width, activation)?),
                false => Box::new(Mlp::new(width, 4 * width, activation)?),
            },
            gamma: Tensor::zeros([width], DType::F32, &Device::Cpu)?.variable(),
            drop_path: DropPath::new(drop_path),
            info: LayerInfo::container(),
        })
    }
}

impl Module for ConvNeXtBlock {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let y = self.norm.forward(&self.conv_dw.forward(x, cx)?, cx)?;
        let y = self.mlp.forward(&y, cx)?;
        let y = y.mul(&in_dtype(&self.gamma, y.dtype())?)?;
        let y = self.drop_path.forward(&y, cx)?.to_dtype(x.dtype())?.add(x)?;
        Ok(cx.capture(&self.info, y, 0))
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.parameter("gamma", &self.gamma);
        visitor.child("conv_dw", &self.conv_dw);
        visitor.child("norm", &self.norm);
        visitor.child("mlp", &*self.mlp);
        visitor.child("drop_path", &self.drop_path);
    }

    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}
