//! Stochastic gradient descent with momentum (Sutskever et al., 2013), in PyTorch's form: the learning rate stays
//! outside the momentum buffer.
use super::{Optimizer, PIECE, Parameter, named, zeros};
use crate::Result;
use fornax_engine::Tensor;
use rayon::prelude::*;

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
        let (lr, momentum, nesterov) = (lr as f32, self.momentum, self.nesterov);
        for (parameter, buffer) in self.parameters.iter().zip(&self.buffers) {
            let Some(grad) = parameter.tensor.grad() else { continue };
            let decay = parameter.weight_decay as f32;
            let grad = grad.read::<f32>()?;
            let (mut weights, mut buffer) = (parameter.tensor.write::<f32>()?, buffer.write::<f32>()?);
            let pieces = weights.par_chunks_mut(PIECE).zip(buffer.par_chunks_mut(PIECE));
            pieces.zip(grad.par_chunks(PIECE)).for_each(|((weights, buffer), grad)| {
                for ((p, b), g) in weights.iter_mut().zip(buffer).zip(grad) {
                    let g = g + decay * *p;
                    *b = momentum * *b + g;
                    *p -= lr * if nesterov { g + momentum * *b } else { *b };
                }
            });
        }
        Ok(())
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        named("momentum_buffer", &self.parameters, &self.buffers)
    }
}
