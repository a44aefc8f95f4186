//! Cross entropies, fused: probabilities are not stored.
mod binary;
pub(crate) mod cpu;
mod cross_entropy;
pub(crate) mod cuda;
mod soft;

use crate::{Error, Result, Tensor};

impl Tensor {
    /// Rows and classes of logits and a target of the same shape, checked.
    fn check_dense_target(&self, op: &'static str, target: &Tensor) -> Result<(usize, usize)> {
        match self.dims() {
            &[n, classes] if n > 0 && classes > 0 && target.shape() == self.shape() => Ok((n, classes)),
            _ => Err(Error::shape(
                op,
                &[("logits", self), ("target", target)],
                "logits and target must both be [n, classes], with at least one row",
            )),
        }
    }
}
