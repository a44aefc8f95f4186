//! Stochastic gradient descent with momentum (Sutskever et al., 2013), in PyTorch's form: the learning rate stays
//! outside the momentum buffer.
use super::{Optimizer, Parameter, gradients, named, zeros};
use crate::Result;
use fornax_engine::{SgdRule, Tensor, Updated};

/// SGD with classical or Nesterov momentum and L2 weight decay.
pub struct Sgd {
    parameters: Vec<Parameter>,
    momentum: f32,
    nesterov: bool,
    buffers: Vec<Tensor>,
}

impl Sgd {
    /// For f32 parameters; momentum in `[0, 1)`.
    pub fn new(parameters: Vec<Parameter>, momentum: f64, nesterov: bool) -> Result<Sgd> {
        let buffers = zeros(&parameters)?;
        Ok(Sgd { parameters, momentum: momentum as f32, nesterov, buffers })
    }
}

impl Optimizer for Sgd {
    fn update(&mut self, lr: f64) -> Result<()> {
        let rule = SgdRule { lr: lr as f32, momentum: self.momentum, nesterov: self.nesterov };
        let gradients = gradients(&self.parameters);
        let with_gradient = self.parameters.iter().zip(&gradients).zip(&self.buffers);
        let parameters: Vec<Updated<1>> = with_gradient
            .filter_map(|((parameter, gradient), buffer)| {
                Some(parameter.updated(gradient.as_ref()?, [buffer]))
            })
            .collect();
        Ok(rule.update(&parameters)?)
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        named("momentum_buffer", &self.parameters, &self.buffers)
    }
}
