//! Weighted sum of losses.
use super::Loss;
use fornax_engine::{Error, Result, Tensor};
use std::sync::Arc;

/// Weighted sum of losses of the same logits and targets.
#[derive(Clone, Debug)]
pub struct WeightedLoss(Vec<(f64, Arc<dyn Loss>)>);

impl WeightedLoss {
    /// Weighted sum of at least one loss, with finite weights.
    pub fn new(terms: Vec<(f64, Arc<dyn Loss>)>) -> Result<WeightedLoss> {
        match !terms.is_empty() && terms.iter().all(|(weight, _)| weight.is_finite()) {
            true => Ok(WeightedLoss(terms)),
            false => Err(Error::value("weighted loss", &[], "needs at least one loss, and finite weights")),
        }
    }

    /// Terms of the sum, weight times loss, in the given order.
    pub fn terms(&self, logits: &Tensor, target: &Tensor) -> Result<Vec<Tensor>> {
        self.0.iter().map(|(weight, loss)| loss.forward(logits, target)?.mul_scalar(*weight)).collect()
    }
}

impl Loss for WeightedLoss {
    fn forward(&self, logits: &Tensor, target: &Tensor) -> Result<Tensor> {
        let terms = self.terms(logits, target)?;
        let (first, rest) = terms.split_first().expect("checked in WeightedLoss::new");
        rest.iter().try_fold(first.clone(), |sum, term| sum.add(term))
    }
}
