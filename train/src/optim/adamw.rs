//! Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019).
use super::{Optimizer, Parameter, gradients, named, zeros};
use crate::Result;
use fornax_engine::{AdamWRule, Tensor, Updated};

/// AdamW.
pub struct AdamW {
    parameters: Vec<Parameter>,
    betas: [f64; 2],
    eps: f64,
    /// i64 scalar: updates done.
    step: Tensor,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
}

impl AdamW {
    /// For f32 parameters; both betas in `[0, 1)`.
    pub fn new(parameters: Vec<Parameter>, betas: [f64; 2], eps: f64) -> Result<AdamW> {
        let (first, second) = (zeros(&parameters)?, zeros(&parameters)?);
        Ok(AdamW { parameters, betas, eps, step: Tensor::scalar(0i64)?, first, second })
    }

    /// Counts an update; its number, from 1.
    fn count(&self) -> Result<i64> {
        let mut step = self.step.write::<i64>()?;
        step[0] += 1;
        Ok(step[0])
    }
}

impl Optimizer for AdamW {
    fn update(&mut self, lr: f64) -> Result<()> {
        let rule = AdamWRule::new(lr, self.betas, self.eps, self.count()?);
        let gradients = gradients(&self.parameters);
        let moments = self.first.iter().zip(&self.second);
        let with_gradient = self.parameters.iter().zip(&gradients).zip(moments);
        let parameters: Vec<Updated<2>> = with_gradient
            .filter_map(|((parameter, gradient), (first, second))| {
                Some(parameter.updated(gradient.as_ref()?, [first, second]))
            })
            .collect();
        Ok(rule.update(&parameters)?)
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = vec![("step".to_string(), self.step.clone())];
        state.extend(named("exp_avg", &self.parameters, &self.first));
        state.extend(named("exp_avg_sq", &self.parameters, &self.second));
        state
    }
}
