//! Max pooling of a normalized convolution: the end of a stem.
use super::gpu::BatchNormPool;
use super::{BatchNorm, NormInput, check};
use crate::autograd::{FusedBackward, is_tracked, recomputed_gradients};
use crate::cpu::activation::is_fused;
use crate::ops::gpu::OnGpu;
use crate::{Activation, ConvBatchNorm, Pool2dOptions, Result, Tensor};

const OP: &str = "batch_norm_max_pool";

impl ConvBatchNorm<'_> {
    /// `max_pool2d(activation(batch_norm(conv2d(x, weight))))`. Shapes and dtypes are those of [`Tensor::conv2d_batch_norm_act`] and
    /// [`Tensor::max_pool2d`], and so are the bits of the result and of its gradients.
    ///
    /// On a GPU the normalized tensor is not stored, nor is its gradient: one pass normalizes and pools, and two passes compute the
    /// gradients from those of the maxima.
    pub fn act_max_pool(&self, activation: Activation, pool: &Pool2dOptions) -> Result<Tensor> {
        let (x, sums) = self.convolve()?;
        let norm = &self.norm;
        let inputs: Vec<&Tensor> = [&x].into_iter().chain(norm.weight).chain(norm.bias).collect();
        let mut operands = vec![("x", &x)];
        operands.extend(norm.operands());
        match OnGpu::of(OP, &operands)?.filter(|_| is_tracked(&inputs) && is_fused(activation)) {
            Some(on) => {
                let c = check(&x, norm, None)?;
                let s = x.max_pool_shape(pool)?;
                let (y, saved) = BatchNormPool::forward(&on, (&x, sums.as_ref()), c, norm, activation, s)?;
                Ok(with_pool_backward(y, saved, &x, norm, activation, *pool))
            }
            None => {
                let input = NormInput::of_convolution(&sums);
                x.batch_norm_act_of(input, norm, activation, None)?.max_pool2d(pool)
            }
        }
    }
}

/// Adds `y` to the graph.
fn with_pool_backward(
    y: Tensor,
    saved: BatchNormPool,
    x: &Tensor,
    norm: &BatchNorm,
    activation: Activation,
    pool: Pool2dOptions,
) -> Tensor {
    let all: Vec<&Tensor> = [x].into_iter().chain(norm.weight).chain(norm.bias).collect();
    let has = [true, norm.weight.is_some(), norm.bias.is_some()];
    let kernels = || {
        move |grad: Tensor, needs: &[bool]| {
            let mut needs = needs.iter().copied();
            let wanted = has.map(|has| has && needs.next().unwrap_or(false));
            let grads = saved.backward(grad, wanted)?.into_iter().zip(has);
            Ok(grads.filter_map(|(grad, has)| has.then_some(grad)).collect())
        }
    };
    if norm.synced().is_some() {
        let of_kernels = || FusedBackward { kernels: Box::new(kernels()), composition: None, joining: None };
        return y.with_fused(OP, &all, of_kernels);
    }
    let composition = || {
        let all: Vec<Tensor> = all.iter().map(|t| (*t).clone()).collect();
        // In training the composition uses the batch's statistics, and leaves the running ones alone.
        let running = norm.running.filter(|_| !norm.training).map(|(mean, var)| (mean.clone(), var.clone()));
        let eps = norm.eps;
        move |grad: Tensor, needs: &[bool]| {
            recomputed_gradients(&all.iter().collect::<Vec<_>>(), &grad, needs, |t| {
                let mut next = t.iter();
                let [x, weight, bias] = has.map(|has| if has { next.next() } else { None });
                let running = running.as_ref().map(|(mean, var)| (mean, var));
                let norm = BatchNorm { weight, bias, running, eps, ..BatchNorm::default() };
                x.expect("it is always an input").batch_norm_act(&norm, activation, None)?.max_pool2d(&pool)
            })
        }
    };
    y.with_fused_backward(OP, &all, kernels, composition)
}
