//! Adding the result of an operation to the graph with its backward function.
use super::{AutogradMeta, Backward, FusedBackward, GradientSum, track};
use crate::{DType, Result, Tensor};

/// Used by operations.
impl Tensor {
    /// Adds this result of an operation to the graph. `make` builds the backward function, and is called only if the operation is
    /// tracked. The function runs untracked kernels, so the operation has first derivatives only.
    pub(crate) fn with_backward<F>(
        self,
        op: &'static str,
        inputs: &[&Tensor],
        make: impl FnOnce() -> F,
    ) -> Tensor
    where
        F: Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    {
        self.tracked(op, inputs, saved_by::<F>(inputs), || Backward::Once(Box::new(make())))
    }

    /// As [`Tensor::with_backward`], for a backward function that is differentiable itself: it is composed of differentiable
    /// operations, and saves its tensors without detaching them.
    pub(crate) fn with_composed_backward<F>(
        self,
        op: &'static str,
        inputs: &[&Tensor],
        make: impl FnOnce() -> F,
    ) -> Tensor
    where
        F: Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    {
        self.tracked(op, inputs, saved_by::<F>(inputs), || Backward::Composed(Box::new(make())))
    }

    /// As [`Tensor::with_composed_backward`], for a function that can add its gradients to the sums of gradients in its third argument.
    pub(crate) fn with_accumulating_backward<F>(
        self,
        op: &'static str,
        inputs: &[&Tensor],
        make: impl FnOnce() -> F,
    ) -> Tensor
    where
        F: Fn(Tensor, &[bool], &mut [GradientSum]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    {
        self.tracked(op, inputs, saved_by::<F>(inputs), || Backward::Accumulating(Box::new(make())))
    }

    /// Adds this cast of `x`, whose dtype is `from`, to the graph.
    pub(crate) fn with_cast_backward(self, x: &Tensor, from: DType) -> Tensor {
        self.tracked("to_dtype", &[x], &[], || Backward::Cast(from))
    }

    /// As [`Tensor::with_backward`], with a second backward function `composition`, like that of [`Tensor::with_composed_backward`],
    /// which replaces `kernels` with `create_graph`. It should save only tensors that are alive anyway.
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
        self.tracked(op, inputs, saved_by::<(F, G)>(inputs), || {
            Backward::Fused(FusedBackward {
                kernels: Box::new(kernels()),
                composition: Some(Box::new(composition())),
                joining: None,
            })
        })
    }

    /// As [`Tensor::with_fused_backward`], for backward functions that save all inputs.
    pub(crate) fn with_fused(
        self,
        op: &'static str,
        inputs: &[&Tensor],
        make: impl FnOnce() -> FusedBackward,
    ) -> Tensor {
        self.tracked(op, inputs, inputs, || Backward::Fused(make()))
    }

    /// As [`Tensor::with_composed_backward`], for a backward function that needs the output, which is its first argument. With
    /// `create_graph` that output requires a gradient.
    pub(crate) fn with_output_backward<F>(self, op: &'static str, inputs: &[&Tensor], backward: F) -> Tensor
    where
        F: Fn(&Tensor, Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    {
        let y = self.clone();
        self.clone().tracked(op, inputs, &[&self], || Backward::FromOutput(y, Box::new(backward)))
    }

    /// Adds tensors that this operation has saved for its backward pass besides its inputs: writing to them before that pass makes it an
    /// error.
    pub(crate) fn with_saved(self, tensors: &[&Tensor]) -> Tensor {
        if let AutogradMeta::Node(node) = self.autograd_meta() {
            node.saved().extend(tensors);
        }
        self
    }

    fn tracked(
        self,
        op: &'static str,
        inputs: &[&Tensor],
        saved: &[&Tensor],
        make: impl FnOnce() -> Backward,
    ) -> Tensor {
        match track(op, *self.shape(), inputs, saved, make) {
            AutogradMeta::None => self,
            meta => self.with_autograd_meta(meta),
        }
    }
}

/// The inputs that a backward function may have saved: all of them, or none if it captures shapes and numbers only.
fn saved_by<'a, F>(inputs: &'a [&'a Tensor]) -> &'a [&'a Tensor] {
    if std::mem::needs_drop::<F>() { inputs } else { &[] }
}
