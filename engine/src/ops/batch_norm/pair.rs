//! ReLU of the sum of two normalized convolutions: the end of a residual block whose shortcut has a convolution.
use super::gpu::{self, BatchNormPair};
use super::output_gradient::{OutputGradient, fused_backward};
use super::{BatchNorm, NormInput, check};
use crate::autograd::{BackwardFn, is_tracked, recomputed_gradients};
use crate::ops::gpu::OnGpu;
use crate::{Activation, Conv2dOptions, Result, Tensor};

const OP: &str = "batch_norm_pair";

/// Operands of a convolution followed by a batch norm.
#[derive(Clone, Copy)]
pub struct ConvBatchNorm<'a> {
    /// Input of the convolution.
    pub x: &'a Tensor,
    /// Weight of the convolution.
    pub weight: &'a Tensor,
    /// Options of the convolution.
    pub options: Conv2dOptions,
    /// Batch norm of the convolution's output.
    pub norm: BatchNorm<'a>,
}

impl ConvBatchNorm<'_> {
    /// `relu(batch_norm(conv2d(x, weight)) + shortcut)`, where `shortcut` is another convolution with batch norm. Shapes and dtypes are
    /// those of [`Tensor::conv2d_batch_norm_act`].
    ///
    /// On a GPU neither normalized tensor is stored: one pass applies both normalizations, and two passes compute the gradients of both.
    pub fn add_relu(&self, shortcut: &ConvBatchNorm) -> Result<Tensor> {
        let (other, other_sums) = shortcut.convolve()?;
        let (x, sums) = self.convolve()?;
        let inputs: Vec<&Tensor> = inputs(&[(&x, &self.norm), (&other, &shortcut.norm)]).collect();
        let mut operands = vec![("x", &x), ("shortcut", &other)];
        operands.extend(self.norm.operands());
        operands.extend(shortcut.norm.operands());
        match OnGpu::of(OP, &operands)?.filter(|_| is_tracked(&inputs)) {
            Some(on) => {
                let c = check(&x, &self.norm, Some(&other))?;
                check(&other, &shortcut.norm, None)?;
                let norms = [(&x, sums.as_ref(), &self.norm), (&other, other_sums.as_ref(), &shortcut.norm)];
                let (y, saved) = gpu::forward_pair(&on, norms, c)?;
                Ok(with_pair_backward(y, saved, [(&x, &self.norm), (&other, &shortcut.norm)]))
            }
            None => {
                let none = Activation::Identity;
                let residual = other.batch_norm_act_of(
                    NormInput::of_convolution(&other_sums),
                    &shortcut.norm,
                    none,
                    None,
                )?;
                x.batch_norm_act_of(
                    NormInput::of_convolution(&sums),
                    &self.norm,
                    Activation::Relu,
                    Some(&residual),
                )
            }
        }
    }

    /// The convolution's output, and the sums of its channels where they were computed with it.
    pub(super) fn convolve(&self) -> Result<(Tensor, Option<Tensor>)> {
        match self.norm.training || self.norm.running.is_none() {
            true => self.x.conv2d_with_sums(self.weight, &self.options),
            false => Ok((self.x.conv2d(self.weight, None, &self.options)?, None)),
        }
    }
}

/// The differentiable inputs of two batch norms, in order.
fn inputs<'a>(norms: &[(&'a Tensor, &BatchNorm<'a>); 2]) -> impl Iterator<Item = &'a Tensor> {
    norms.map(|(x, norm)| [Some(x), norm.weight, norm.bias]).into_iter().flatten().flatten()
}

/// Adds `y` to the graph.
fn with_pair_backward(y: Tensor, saved: BatchNormPair, norms: [(&Tensor, &BatchNorm); 2]) -> Tensor {
    let all: Vec<&Tensor> = inputs(&norms).collect();
    let has = norms.map(|(_, norm)| [true, norm.weight.is_some(), norm.bias.is_some()]);
    let joins = gpu::joins(norms[0].0);
    let by_kernels = move |grad: OutputGradient, needs: &[bool]| {
        let mut needs = needs.iter().copied();
        let wanted = has.map(|has| has.map(|has| has && needs.next().unwrap_or(false)));
        let grads = saved.backward(grad, wanted)?.into_iter().flatten().zip(has.into_iter().flatten());
        Ok(grads.filter_map(|(grad, has)| has.then_some(grad)).collect())
    };
    if norms.iter().any(|(_, norm)| norm.synced().is_some()) {
        return y.with_fused(OP, &all, || fused_backward(by_kernels, joins, None));
    }
    let composition = {
        let operands: Vec<Tensor> = all.iter().map(|t| (*t).clone()).collect();
        // In training the composition uses the batch's statistics, and leaves the running ones alone.
        let running = norms.map(|(_, norm)| {
            norm.running.filter(|_| !norm.training).map(|(mean, var)| (mean.clone(), var.clone()))
        });
        let eps = norms.map(|(_, norm)| norm.eps);
        move |grad: Tensor, needs: &[bool]| {
            recomputed_gradients(&operands.iter().collect::<Vec<_>>(), &grad, needs, |t| {
                let mut next = t.iter();
                let mut norm = |p: usize| {
                    let [x, weight, bias] = has[p].map(|has| if has { next.next() } else { None });
                    let running = running[p].as_ref().map(|(mean, var)| (mean, var));
                    let norm = BatchNorm { weight, bias, running, eps: eps[p], ..BatchNorm::default() };
                    (x.expect("it is always an input"), norm)
                };
                let ((x, of_x), (other, of_other)) = (norm(0), norm(1));
                x.batch_norm_act(&of_x, Activation::Relu, Some(&other.batch_norm(&of_other)?))
            })
        }
    };
    let composition: Box<BackwardFn> = Box::new(composition);
    y.with_fused(OP, &all, || fused_backward(by_kernels, joins, Some(composition)))
}
