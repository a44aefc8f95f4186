//! How operations put their results into the graph, by what their backward functions are made of.
use super::{Backward, Gradient, record};
use crate::{Result, Tensor};

/// For operations.
impl Tensor {
    /// This fresh result of an operation, recorded in the graph: `make` builds the backward function when one is needed. Its kernels
    /// leave no graph behind, so the operation is differentiated once only.
    pub(crate) fn recorded<F>(self, op: &'static str, inputs: &[&Tensor], make: impl FnOnce() -> F) -> Tensor
    where
        F: Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    {
        self.recorded_as(op, inputs, || Backward::Once(Box::new(make())))
    }

    /// As [`Tensor::recorded`], with a backward function that can be differentiated in turn: it is made of operations that can, and
    /// saved tensors as they are in the graph, not detached.
    pub(crate) fn recorded_composed<F>(
        self,
        op: &'static str,
        inputs: &[&Tensor],
        make: impl FnOnce() -> F,
    ) -> Tensor
    where
        F: Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    {
        self.recorded_as(op, inputs, || Backward::Composed(Box::new(make())))
    }

    /// As [`Tensor::recorded`], with a second backward function, like that of [`Tensor::recorded_composed`], which stands in for the
    /// first one where it is to be differentiated in turn. What it saves should be kept anyway.
    pub(crate) fn recorded_fused<F, G>(
        self,
        op: &'static str,
        inputs: &[&Tensor],
        kernels: impl FnOnce() -> F,
        composition: impl FnOnce() -> G,
    ) -> Tensor
    where
        F: Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
        G: Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    {
        self.recorded_as(op, inputs, || Backward::Fused {
            kernels: Box::new(kernels()),
            composition: Box::new(composition()),
        })
    }

    /// As [`Tensor::recorded_composed`], for a backward function of the output, which it is given. The output requires a gradient
    /// where the function is to be differentiated in turn.
    pub(crate) fn recorded_of_output<F>(self, op: &'static str, inputs: &[&Tensor], backward: F) -> Tensor
    where
        F: Fn(&Tensor, Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    {
        let y = self.clone();
        self.recorded_as(op, inputs, || Backward::OfOutput(y, Box::new(backward)))
    }

    fn recorded_as(self, op: &'static str, inputs: &[&Tensor], make: impl FnOnce() -> Backward) -> Tensor {
        match record(op, *self.shape(), inputs, make) {
            Gradient::None => self,
            gradient => self.with_gradient(gradient),
        }
    }
}
