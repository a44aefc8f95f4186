//! Blocks of EfficientNet, MobileNetV2 and MobileNetV3.
use super::{BlockGroup, BlockType};
use crate::capture::LayerInfo;
use crate::layers::squeeze_excite::SqueezeExciteNames;
use crate::layers::{BatchNorm2d, BatchNormOptions, Conv2d, DropPath, SqueezeExcite};
use crate::models::make_divisible;
use crate::{Context, Module, Visitor};
use fornax_engine::{Activation, Result, Tensor};

/// Arguments of one block.
pub(super) struct BlockArgs {
    pub c_in: usize,
    pub c_out: usize,
    pub stride: usize,
    pub dilation: usize,
    pub drop_path: f64,
    pub activation: Activation,
    /// Squeeze-and-excitation as in MobileNetV3: reduction of the inner channels, rounded to multiples of 8, with ReLU and hard sigmoid.
    pub mobile_v3: bool,
}

/// Inverted residual block: pointwise convolution, depthwise convolution, squeeze-and-excitation, pointwise convolution, and a residual
/// connection if the shape is unchanged. Depthwise separable blocks omit the first convolution.
pub(super) struct InvertedResidual {
    expand: Option<(Conv2d, BatchNorm2d)>,
    depthwise: (Conv2d, BatchNorm2d),
    se: Option<SqueezeExcite>,
    project: (Conv2d, BatchNorm2d),
    skips: bool,
    drop_path: DropPath,
    info: LayerInfo,
}

impl InvertedResidual {
    pub fn new(blocks: &BlockGroup, norm: BatchNormOptions, args: &BlockArgs) -> Result<InvertedResidual> {
        let &BlockArgs { c_in, c_out, stride, dilation, drop_path, activation, mobile_v3 } = args;
        let expands = blocks.kind == BlockType::InvertedResidual;
        let inner = if expands { make_divisible(c_in as f64 * blocks.expand, 8, 0.9) } else { c_in };
        let active = |channels| {
            Ok::<_, fornax_engine::Error>(BatchNorm2d::new(channels, norm)?.with_activation(activation))
        };
        let se = || match mobile_v3 {
            true => {
                let reduced = make_divisible(inner as f64 * 0.25, 8, 0.9);
                SqueezeExcite::new(
                    SqueezeExciteNames::Conv,
                    inner,
                    reduced,
                    Activation::Relu,
                    Activation::HardSigmoid,
                )
            }
            false => {
                let ratio = 0.25 / if expands { blocks.expand } else { 1.0 };
                let reduced = (inner as f64 * ratio).round_ties_even() as usize;
                SqueezeExcite::new(SqueezeExciteNames::Conv, inner, reduced, activation, Activation::Sigmoid)
            }
        };
        Ok(InvertedResidual {
            expand: match expands {
                true => Some((Conv2d::same(c_in, inner, 1, 1)?, active(inner)?)),
                false => None,
            },
            depthwise: (
                Conv2d::grouped(inner, inner, blocks.kernel, stride, inner)?.dilated(dilation),
                active(inner)?,
            ),
            se: blocks.squeeze_excite.then(se).transpose()?,
            project: (Conv2d::same(inner, c_out, 1, 1)?, BatchNorm2d::new(c_out, norm)?),
            skips: stride == 1 && c_in == c_out,
            drop_path: DropPath::new(drop_path),
            info: LayerInfo::container(),
        })
    }
}

impl Module for InvertedResidual {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let none = Activation::Identity;
        let mut y = x.clone();
        if let Some((conv, norm)) = &self.expand {
            y = conv.forward_norm_act(&y, norm, none, None, cx)?;
        }
        y = self.depthwise.0.forward_norm_act(&y, &self.depthwise.1, none, None, cx)?;
        if let Some(se) = &self.se {
            y = se.forward(&y, cx)?;
        }
        let (conv, norm) = &self.project;
        let y = if self.skips && self.drop_path.is_active(cx) {
            let y = conv.forward_norm_act(&y, norm, none, None, cx)?;
            self.drop_path.forward(&y, cx)?.add(x)?
        } else {
            conv.forward_norm_act(&y, norm, none, self.skips.then_some(x), cx)?
        };
        Ok(cx.capture(&self.info, y, 0))
    }

    fn visit(&self, visitor: &mut Visitor) {
        let mut norms = 0;
        let mut both = |visitor: &mut Visitor, name: &str, (conv, norm): &(Conv2d, BatchNorm2d)| {
            norms += 1;
            visitor.child(name, conv);
            visitor.child(&format!("bn{norms}"), norm);
        };
        if let Some(expand) = &self.expand {
            both(visitor, "conv_pw", expand);
        }
        both(visitor, "conv_dw", &self.depthwise);
        if let Some(se) = &self.se {
            visitor.child("se", se);
        }
        both(visitor, if self.expand.is_some() { "conv_pwl" } else { "conv_pw" }, &self.project);
        visitor.child("drop_path", &self.drop_path);
    }

    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}

/// Convolution, batch norm and activation.
pub(super) struct ConvBnAct {
    conv: Conv2d,
    bn1: BatchNorm2d,
    info: LayerInfo,
}

impl ConvBnAct {
    pub fn new(blocks: &BlockGroup, norm: BatchNormOptions, args: &BlockArgs) -> Result<ConvBnAct> {
        Ok(ConvBnAct {
            conv: Conv2d::same(args.c_in, args.c_out, blocks.kernel, args.stride)?.dilated(args.dilation),
            bn1: BatchNorm2d::new(args.c_out, norm)?.with_activation(args.activation),
            info: LayerInfo::container(),
        })
    }
}

impl Module for ConvBnAct {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let y = self.conv.forward_norm_act(x, &self.bn1, Activation::Identity, None, cx)?;
        Ok(cx.capture(&self.info, y, 0))
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("conv", &self.conv);
        visitor.child("bn1", &self.bn1);
    }

    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}
