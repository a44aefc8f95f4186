//! How operations put their results into the graph, by what their backward functions are made of.
use super::{AutogradMeta, Backward, track};
use crate::{Result, Tensor};

/// For operations.
impl Tensor {
    /// This fresh result of an operation, recorded in the graph: `make` builds the backward function when one is needed. Its kernels
    /// leave no graph behind, so the operation is differentiated once only.
    pub(crate) fn with_backward<F>(
        self,
        op: &'static str,
        inputs: &[&Tensor],
        make: impl FnOnce() -> F,
    ) -> Tensor
    where
        F: Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    {
        self.tracked(op, inputs, || Backward::Once(Box::new(make())))
    }

    /// As [`Tensor::recorded`], with a backward function that can be differentiated in turn: it is made of operations that can, and
    /// saved tensors as they are in the graph, not detached.
    pub(crate) fn with_composed_backward<F>(
        self,
        op: &'static str,
        inputs: &[&Tensor],
        make: impl FnOnce() -> F,
    ) -> Tensor
    where
        F: Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    {
        self.tracked(op, inputs, || Backward::Composed(Box::new(make())))
    }

    /// As [`Tensor::recorded`], with a second backward function, like that of [`Tensor::recorded_composed`], which stands in for the
    /// first one where it is to be differentiated in turn. What it saves should be kept anyway.
    pub(crate) fn with_fused_backward<F, G>(
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
        self.tracked(op, inputs, || Backward::Fused {
            kernels: Box::new(kernels()),
            composition: Box::new(composition()),
        })
    }

    /// As [`Tensor::recorded_composed`], for a backward function of the output, which it is given. The output requires a gradient
    /// where the function is to be differentiated in turn.
    pub(crate) fn with_output_backward<F>(self, op: &'static str, inputs: &[&Tensor], backward: F) -> Tensor
    where
        F: Fn(&Tensor, Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    {
        let y = self.clone();
        self.tracked(op, inputs, || Backward::FromOutput(y, Box::new(backward)))
    }

    fn tracked(self, op: &'static str, inputs: &[&Tensor], make: impl FnOnce() -> Backward) -> Tensor {
        match track(op, *self.shape(), inputs, make) {
            AutogradMeta::None => self,
            gradient => self.with_autograd_meta(gradient),
        }
    }
}
