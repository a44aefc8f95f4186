//! Two fully connected layers with an activation between them.
use super::{Activate, Conv2d, Linear};
use crate::precision::Operation;
use crate::{Context, Module, Visitor};
use fornax_engine::{Activation, Result, Tensor};

/// `fc2(activation(fc1(x)))` over the last axis.
pub struct Mlp {
    fc1: Linear,
    activation: Activate,
    fc2: Linear,
}

impl Mlp {
    /// From `features` over `hidden` back to `features`.
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
        let watched = [self.fc1.label(), self.activation.label(), self.fc2.label()];
        if watched.into_iter().flatten().any(|label| cx.observes(label)) {
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

/// The same with convolutions of single pixels, whose weights have four axes.
pub struct ConvMlp {
    fc1: Conv2d,
    activation: Activate,
    fc2: Conv2d,
}

impl ConvMlp {
    /// From `channels` over `hidden` back to `channels`.
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
