//! Dropout layer.
use crate::{Context, Module, Visitor};
use fornax_engine::{Result, Tensor};

/// In training, each element becomes 0 with this probability, and what is left grows by as much (Srivastava et al., 2014).
pub struct Dropout(pub f64);

impl Module for Dropout {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        if !cx.training() || self.0 == 0.0 {
            return Ok(x.clone());
        }
        let (stream, step) = cx.draw()?;
        x.dropout(self.0, &stream, Some(&step))
    }

    fn visit(&self, _: &mut Visitor) {}
}
