//! Multi-layer perceptron: two linear layers with an activation in between.
use super::{Activate, Conv2d, Linear};
use crate::precision::Operation;
use crate::{Context, Module, Visitor};
use fornax_engine::{Activation, Result, Tensor};

/// MLP `fc2(activation(fc1(x)))` over the last axis. timm's `Mlp`.
pub struct Mlp {
    fc1: Linear,
    activation: Activate,
    fc2: Linear,
}

impl Mlp {
    /// MLP with `features` inputs and outputs and `hidden` hidden features.
    pub fn new(features: usize, hidden: usize, activation: Activation) -> Result<Mlp> {
        Ok(Mlp {
            fc1: Linear::new(features, hidden)?,
            activation: Activate::new(activation),
            fc2: Linear::new(hidden, features)?,
        })
    }
}

impl Module for Mlp {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let captured = [self.fc1.layer_info(), self.activation.layer_info(), self.fc2.layer_info()];
        if captured.into_iter().flatten().any(|info| cx.captures(info)) {
            let hidden = self.activation.forward(&self.fc1.forward(x, cx)?, cx)?;
            return self.fc2.forward(&hidden, cx);
        }
        let x = cx.autocast(Operation::MatMul, x)?;
        let ((w1, b1), (w2, b2)) = (self.fc1.parameters(x.dtype())?, self.fc2.parameters(x.dtype())?);
        x.mlp((&w1, &b1), self.activation.kind(), (&w2, &b2))
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("fc1", &self.fc1);
        visitor.child("act", &self.activation);
        visitor.child("fc2", &self.fc2);
    }
}

/// MLP of 1×1 convolutions, whose weights have four axes. timm's `ConvMlp`.
pub struct ConvMlp {
    fc1: Conv2d,
    activation: Activate,
    fc2: Conv2d,
}

impl ConvMlp {
    /// MLP with `channels` input and output channels and `hidden` hidden channels.
    pub fn new(channels: usize, hidden: usize, activation: Activation) -> Result<ConvMlp> {
        Ok(ConvMlp {
            fc1: Conv2d::same(channels, hidden, 1, 1)?.with_bias()?,
            activation: Activate::new(activation),
            fc2: Conv2d::same(hidden, channels, 1, 1)?.with_bias()?,
        })
    }
}

impl Module for ConvMlp {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let hidden = self.activation.forward(&self.fc1.forward(x, cx)?, cx)?;
        self.fc2.forward(&hidden, cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("fc1", &self.fc1);
        visitor.child("act", &self.activation);
        visitor.child("fc2", &self.fc2);
    }
}
