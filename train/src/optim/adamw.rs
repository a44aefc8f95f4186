//! Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019).
use super::{Optimizer, PIECE, Parameter, named, zeros};
use crate::Result;
use fornax_engine::Tensor;
use rayon::prelude::*;

/// AdamW.
pub struct AdamW {
    parameters: Vec<Parameter>,
    betas: [f64; 2],
    eps: f32,
    /// i64 scalar: updates done.
    step: Tensor,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
}

impl AdamW {
    /// For f32 parameters; both betas in `[0, 1)`.
    pub fn new(parameters: Vec<Parameter>, betas: [f64; 2], eps: f64) -> Result<AdamW> {
        let (first, second) = (zeros(&parameters)?, zeros(&parameters)?);
        Ok(AdamW { parameters, betas, eps: eps as f32, step: Tensor::scalar(0i64)?, first, second })
    }

    /// Counts an update, and returns the two bias corrections for it.
    fn count(&self) -> Result<[f64; 2]> {
        let mut step = self.step.write::<i64>()?;
        step[0] += 1;
        Ok(self.betas.map(|beta| 1.0 - beta.powf(step[0] as f64)))
    }
}

impl Optimizer for AdamW {
    fn update(&mut self, lr: f64) -> Result<()> {
        let [correction1, correction2] = self.count()?;
        let [beta1, beta2] = self.betas.map(|beta| beta as f32);
        let [rest1, rest2] = self.betas.map(|beta| (1.0 - beta) as f32);
        let (size, root, eps) = ((lr / correction1) as f32, correction2.sqrt() as f32, self.eps);
        for ((parameter, first), second) in self.parameters.iter().zip(&self.first).zip(&self.second) {
            let Some(grad) = parameter.tensor.grad() else { continue };
            let keep = (1.0 - lr * parameter.weight_decay) as f32;
            let grad = grad.read::<f32>()?;
            let mut weights = parameter.tensor.write::<f32>()?;
            let (mut first, mut second) = (first.write::<f32>()?, second.write::<f32>()?);
            let moments = first.par_chunks_mut(PIECE).zip(second.par_chunks_mut(PIECE));
            let pieces = weights.par_chunks_mut(PIECE).zip(moments).zip(grad.par_chunks(PIECE));
            pieces.for_each(|((weights, (first, second)), grad)| {
                for (((p, m), v), g) in weights.iter_mut().zip(first).zip(second).zip(grad) {
                    *m = beta1 * *m + rest1 * g;
                    *v = beta2 * *v + rest2 * g * g;
                    *p = *p * keep - size * *m / (v.sqrt() / root + eps);
                }
            });
        }
        Ok(())
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = vec![("step".to_string(), self.step.clone())];
        state.extend(named("exp_avg", &self.parameters, &self.first));
        state.extend(named("exp_avg_sq", &self.parameters, &self.second));
        state
    }
}
