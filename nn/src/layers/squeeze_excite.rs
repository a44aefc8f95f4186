//! Squeeze-and-excitation (Hu et al., 2018).
use super::{Activate, Conv2d};
use crate::{Context, Module, Visitor};
use fornax_engine::{Activation, GlobalPool, Result, Tensor};

/// Squeeze-and-excitation: `x * gate(expand(activation(reduce(mean(x)))))`, with the mean over all pixels and 1×1 convolutions `reduce`
/// and `expand`.
pub struct SqueezeExcite {
    names: SqueezeExciteNames,
    reduce: Conv2d,
    activation: Activate,
    expand: Conv2d,
    gate: Activate,
}

/// Names of the submodules in timm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqueezeExciteNames {
    /// `fc1`, `act`, `fc2`, `gate`: ResNet, RegNet.
    Fc,
    /// `conv_reduce`, `act1`, `conv_expand`, `gate`: EfficientNet, MobileNetV3.
    Conv,
}

impl SqueezeExcite {
    /// Layer over `channels` channels, with `reduced` channels in between.
    pub fn new(
        names: SqueezeExciteNames,
        channels: usize,
        reduced: usize,
        activation: Activation,
        gate: Activation,
    ) -> Result<SqueezeExcite> {
        Ok(SqueezeExcite {
            names,
            reduce: Conv2d::same(channels, reduced, 1, 1)?.with_bias()?,
            activation: Activate::new(activation),
            expand: Conv2d::same(reduced, channels, 1, 1)?.with_bias()?,
            gate: Activate::new(gate),
        })
    }
}

impl Module for SqueezeExcite {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let mean = x.global_pool(GlobalPool::Avg)?;
        let mean = mean.reshape([mean.dims()[0], 1, 1, mean.dims()[1]])?;
        let hidden = self.activation.forward(&self.reduce.forward(&mean, cx)?, cx)?;
        let gate = self.gate.forward(&self.expand.forward(&hidden, cx)?, cx)?;
        x.mul(&gate.to_dtype(x.dtype())?)
    }

    fn visit(&self, visitor: &mut Visitor) {
        let [reduce, activation, expand] = match self.names {
            SqueezeExciteNames::Fc => ["fc1", "act", "fc2"],
            SqueezeExciteNames::Conv => ["conv_reduce", "act1", "conv_expand"],
        };
        visitor.child(reduce, &self.reduce);
        visitor.child(activation, &self.activation);
        visitor.child(expand, &self.expand);
        visitor.child("gate", &self.gate);
    }
}
