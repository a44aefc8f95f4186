//! Blocks of residual networks.
use super::ResNetConfig;
use crate::capture::LayerInfo;
use crate::layers::squeeze_excite::SqueezeExciteNames;
use crate::layers::{
    Activate, AvgPool2d, BatchNorm2d, BatchNormOptions, Conv2d, DropBlock, DropPath, SqueezeExcite,
};
use crate::models::make_divisible;
use crate::{Context, Module, Visitor};
use fornax_engine::{Activation, Pool2dOptions, Result, Tensor};

/// Arguments of one block.
pub(super) struct ResidualBlockArgs {
    pub c_in: usize,
    /// Inner channels.
    pub width: usize,
    pub stride: usize,
    /// Dilation of the strided convolution, and of the others.
    pub first_dilation: usize,
    pub dilation: usize,
    /// The shortcut has a convolution.
    pub downsamples: bool,
    pub drop_path: f64,
    /// DropBlock probability and index of the stage.
    pub drop_block: Option<(f64, usize)>,
}

/// Residual block of two (timm's `BasicBlock`) or three (timm's `Bottleneck`) convolutions with batch norm, and a shortcut.
pub(super) struct ResidualBlock {
    convs: Vec<(Conv2d, BatchNorm2d, Activate)>,
    /// DropBlock after the strided convolution.
    drop_block: Option<DropBlock>,
    /// Index of the strided convolution.
    strided: usize,
    se: Option<SqueezeExcite>,
    drop_path: DropPath,
    downsample: Option<DownsampleShortcut>,
    info: LayerInfo,
}

/// Shortcut with a change of stride or width: optional average pooling, 1×1 convolution and batch norm.
struct DownsampleShortcut {
    averages: bool,
    pool: Option<AvgPool2d>,
    conv: Conv2d,
    bn: BatchNorm2d,
}

impl ResidualBlock {
    pub fn new(
        config: &ResNetConfig,
        activation: Activation,
        norm: BatchNormOptions,
        args: &ResidualBlockArgs,
    ) -> Result<ResidualBlock> {
        let &ResidualBlockArgs { c_in, width, stride, first_dilation, dilation, .. } = args;
        let c_out = width * config.expansion();
        let layers = match config.bottleneck {
            true => {
                let inner = width * config.group_width / 64 * config.groups;
                vec![
                    (Conv2d::same(c_in, inner, 1, 1)?, inner),
                    (Conv2d::grouped(inner, inner, 3, stride, config.groups)?.dilated(first_dilation), inner),
                    (Conv2d::same(inner, c_out, 1, 1)?, c_out),
                ]
            }
            false => {
                let groups = if config.depthwise_conv2 { c_out } else { 1 };
                vec![
                    (Conv2d::same(c_in, width, 3, stride)?.dilated(first_dilation), width),
                    (Conv2d::grouped(width, c_out, 3, 1, groups)?.dilated(dilation), c_out),
                ]
            }
        };
        let with_norm_act =
            |(conv, channels)| Ok((conv, BatchNorm2d::new(channels, norm)?, Activate::new(activation)));
        let se = |c: usize| {
            let reduced = make_divisible(c as f64 / 16.0, 8, 0.0);
            SqueezeExcite::new(SqueezeExciteNames::Fc, c, reduced, Activation::Relu, Activation::Sigmoid)
        };
        let drop_block = args.drop_block.filter(|(rate, _)| *rate > 0.0).map(|(rate, stage)| match stage {
            2 => DropBlock { drop_prob: rate, block_size: 5, gamma_scale: 0.25 },
            _ => DropBlock { drop_prob: rate, block_size: 3, gamma_scale: 1.0 },
        });
        Ok(ResidualBlock {
            convs: layers.into_iter().map(with_norm_act).collect::<Result<_>>()?,
            drop_block,
            strided: usize::from(config.bottleneck),
            se: config.squeeze_excite.then(|| se(c_out)).transpose()?,
            drop_path: DropPath::new(args.drop_path),
            downsample: match args.downsamples {
                true => Some(DownsampleShortcut::new(config, norm, args, c_out)?),
                false => None,
            },
            info: LayerInfo::container(),
        })
    }
}

impl Module for ResidualBlock {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let mut y = x.clone();
        let ((last_conv, last_norm, last_act), before) =
            self.convs.split_last().expect("a block has convolutions");
        for (i, (conv, norm, act)) in before.iter().enumerate() {
            let drops = self.drop_block.as_ref().filter(|_| i == self.strided);
            y = match drops {
                Some(drop) if cx.training() => {
                    let y = conv.forward_norm_act(&y, norm, Activation::Identity, None, cx)?;
                    act.forward(&drop.forward(&y, cx)?, cx)?
                }
                _ => {
                    let y = conv.forward_norm_act(&y, norm, act.kind(), None, cx)?;
                    act.capture_fused(y, cx)
                }
            };
        }
        let plain = self.se.is_none() && !self.drop_path.is_active(cx);
        let joined = match &self.downsample {
            Some(downsample) if plain && last_act.kind() == Activation::Relu => {
                downsample.join((last_conv, &y, last_norm), x, cx)?
            }
            _ => None,
        };
        let y = if let Some(y) = joined {
            last_act.capture_fused(y, cx)
        } else if plain {
            let shortcut = self.shortcut(x, cx)?;
            let y = last_conv.forward_norm_act(&y, last_norm, last_act.kind(), Some(&shortcut), cx)?;
            last_act.capture_fused(y, cx)
        } else {
            let mut y = last_conv.forward_norm_act(&y, last_norm, Activation::Identity, None, cx)?;
            if let Some(se) = &self.se {
                y = se.forward(&y, cx)?;
            }
            y = self.drop_path.forward(&y, cx)?;
            last_act.forward(&y.add(&self.shortcut(x, cx)?)?, cx)?
        };
        Ok(cx.capture(&self.info, y, 0))
    }

    fn visit(&self, visitor: &mut Visitor) {
        for (i, (conv, norm, act)) in self.convs.iter().enumerate() {
            visitor.child(&format!("conv{}", i + 1), conv);
            visitor.child(&format!("bn{}", i + 1), norm);
            if let Some(se) = self.se.as_ref().filter(|_| i + 1 == self.convs.len()) {
                visitor.child("se", se);
            }
            visitor.child(&format!("act{}", i + 1), act);
        }
        if let Some(downsample) = &self.downsample {
            visitor.child("downsample", downsample);
        }
        visitor.child("drop_path", &self.drop_path);
    }

    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}

impl ResidualBlock {
    fn shortcut(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        self.downsample.as_ref().map_or(Ok(x.clone()), |downsample| downsample.forward(x, cx))
    }
}

impl DownsampleShortcut {
    fn new(
        config: &ResNetConfig,
        norm: BatchNormOptions,
        args: &ResidualBlockArgs,
        c_out: usize,
    ) -> Result<DownsampleShortcut> {
        let averages = config.average_down;
        let pool = match (averages, args.stride, args.dilation) {
            (false, ..) | (true, 1, 1) => None,
            (true, 1, _) => Some(AvgPool2d::same()),
            (true, stride, _) => Some(AvgPool2d::new(Pool2dOptions {
                stride: [stride; 2],
                ceil_mode: true,
                ..Pool2dOptions::default()
            })),
        };
        let stride = if averages { 1 } else { args.stride };
        let conv = Conv2d::same(args.c_in, c_out, 1, stride)?;
        Ok(DownsampleShortcut { averages, pool, conv, bn: BatchNorm2d::new(c_out, norm)? })
    }
}

impl DownsampleShortcut {
    /// `relu(norm(conv(y)) + shortcut(x))`, if it can be computed as one operation.
    fn join(
        &self,
        (conv, y, norm): (&Conv2d, &Tensor, &BatchNorm2d),
        x: &Tensor,
        cx: &mut Context,
    ) -> Result<Option<Tensor>> {
        if !conv.fuses_with(norm, cx) || !self.conv.fuses_with(&self.bn, cx) {
            return Ok(None);
        }
        let averaged = self.average(x, cx)?;
        conv.forward_norm_add_relu((y, norm), (&self.conv, &averaged, &self.bn), cx).map(Some)
    }

    fn average(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        self.pool.as_ref().map_or(Ok(x.clone()), |pool| pool.forward(x, cx))
    }
}

impl Module for DownsampleShortcut {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let averaged = self.average(x, cx)?;
        self.conv.forward_norm_act(&averaged, &self.bn, Activation::Identity, None, cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        let first = usize::from(self.averages);
        if let Some(pool) = &self.pool {
            visitor.child("0", pool);
        }
        visitor.child(&first.to_string(), &self.conv);
        visitor.child(&(first + 1).to_string(), &self.bn);
    }
}
