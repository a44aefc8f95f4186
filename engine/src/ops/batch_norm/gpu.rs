//! Batch norm on a GPU. The running statistics are updated there, without synchronization.
use super::{BatchNorm, Nonlinearity, saves_mask, with_batch_norm_backward};
use crate::cuda::batch_norm::{
    self as kernel, BatchNormParameters, DerivativeSource, PassBefore, RunningMomentum, SAVED_ROWS,
    mask_bytes,
};
use crate::cuda::{DeviceSlice, batch_norm_pair as pair_kernel, batch_norm_pool as pool_kernel, conv_norm};
use crate::ops::gpu::OnGpu;
use crate::pool_shape::PoolShape;
use crate::{Activation, DType, Result, Tensor};

const OP: &str = "batch_norm";

pub(super) fn forward(
    on: &OnGpu,
    (x, sums): (&Tensor, Option<&Tensor>),
    c: usize,
    norm: &BatchNorm,
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let batch_statistics = norm.training || norm.running.is_none();
    let mut inputs = vec![x];
    inputs.extend(norm.weight);
    inputs.extend(norm.bias);
    inputs.extend(residual);
    let saved = channel_parameters(on, (x, sums), c, norm)?;
    let before =
        if batch_statistics && sums.is_none() { PassBefore::Reduction } else { PassBefore::Convolution };
    let mask = saves_mask(activation, residual, &inputs)
        .then(|| on.empty([x.numel() / c, mask_bytes(c)], DType::U8))
        .transpose()?;
    let y = on.build(*x.shape(), x.dtype(), |y| {
        let (x, saved) = (x.device_view(), saved.device_view());
        let (residual, mask) = (residual.map(Tensor::device_view), mask.as_ref().map(Tensor::device_view));
        let (x, saved, residual) = (x.slice(), saved.slice(), residual.as_ref().map(|t| t.slice()));
        match (&mask, residual) {
            (Some(mask), Some(residual)) => {
                kernel::apply_masked(&on.gpu, (x, before), c, [saved, residual], activation, y, mask.slice())
            }
            _ => kernel::apply(&on.gpu, (x, before), c, saved, residual, activation, y),
        }
    })?;
    let make = || {
        let saved = SavedForBackward {
            x: x.detach(),
            is_masked: mask.is_some(),
            derivative_operand: mask
                .or_else(|| residual.filter(|_| activation != Activation::Identity).map(Tensor::detach)),
            activation,
            batch_statistics,
            saved,
            parameter_dtype: norm.weight.or(norm.bias).map_or(DType::F32, |t| t.dtype()),
        };
        move |grad: Tensor, wanted| saved.backward(grad, wanted)
    };
    Ok(with_batch_norm_backward(y, OP, (x, norm, residual), Nonlinearity::BuiltIn(activation), make))
}

/// Mean, inverse deviation, scale and shift by channel, `[SAVED_ROWS, c]`, from the batch's statistics (by way of its sums if given) or
/// the running ones.
fn channel_parameters(
    on: &OnGpu,
    (x, sums): (&Tensor, Option<&Tensor>),
    c: usize,
    norm: &BatchNorm,
) -> Result<Tensor> {
    on.build([SAVED_ROWS, c], DType::F32, |saved| {
        let views = [norm.weight, norm.bias, norm.running.map(|r| r.0), norm.running.map(|r| r.1)]
            .map(|t| t.map(Tensor::device_view));
        let [weight, bias, mean, var] = views.each_ref().map(|t| t.as_ref().map(|t| t.slice()));
        let running = mean.zip(var).map(|(mean, var)| [mean, var]);
        let parameters = BatchNormParameters { weight, bias, running, eps: norm.eps };
        let batches = norm.counted_batches().map(Tensor::device_view);
        let momentum = norm.training.then(|| momentum(norm, batches.as_ref().map(|t| t.slice())));
        if let Some(RunningMomentum::Cumulative(batches)) = momentum {
            kernel::count_batch(&on.gpu, batches)?;
        }
        match (sums, running) {
            (Some(sums), _) => {
                let (x, sums) = (x.device_view(), sums.device_view());
                conv_norm::statistics(&on.gpu, (x.slice(), sums.slice()), c, &parameters, momentum, saved)
            }
            (None, Some(running)) if !norm.training => {
                kernel::frozen_statistics(&on.gpu, running, c, &parameters, saved)
            }
            _ => kernel::statistics(&on.gpu, x.device_view().slice(), c, &parameters, momentum, saved),
        }
    })
}

/// Weight of the batch in the running statistics; `batches` is the number of batches on the device.
pub(super) fn momentum<'a>(norm: &BatchNorm, batches: Option<DeviceSlice<'a>>) -> RunningMomentum<'a> {
    batches.map_or(RunningMomentum::Constant(norm.momentum), RunningMomentum::Cumulative)
}

/// Values saved for the backward pass.
struct SavedForBackward {
    x: Tensor,
    /// With a residual and an activation: the mask of the derivative if there is one, else the residual.
    derivative_operand: Option<Tensor>,
    is_masked: bool,
    activation: Activation,
    batch_statistics: bool,
    /// `[SAVED_ROWS, c]`, as written by the forward kernels.
    saved: Tensor,
    /// Dtype of weight and bias.
    parameter_dtype: DType,
}

impl SavedForBackward {
    /// The wanted gradients of x, weight, bias and residual. Overwrites `grad` if it has no other owner.
    fn backward(&self, grad: Tensor, wanted: [bool; 4]) -> Result<[Option<Tensor>; 4]> {
        let operands = [("x", &self.x), ("grad", &grad)];
        let on = OnGpu::for_backward(OP, &operands)?;
        let c = self.saved.dims()[1];
        let (x, saved) = (self.x.device_view(), self.saved.device_view());
        let pass = kernel::BatchNormBackward {
            gpu: &on.gpu,
            x: x.slice(),
            c,
            saved: saved.slice(),
            activation: self.activation,
            batch_statistics: self.batch_statistics,
        };
        let vector = |wanted: bool| wanted.then(|| on.empty([c], self.parameter_dtype)).transpose();
        let [dweight, dbias] = [vector(wanted[1])?, vector(wanted[2])?];
        let factors = on.empty([2, c], DType::F32)?;
        // Without a residual d = dy * f' is cheaper to recompute than to store.
        let stores_d = self.derivative_operand.is_some();
        let is_sole_owner = grad.is_sole_owner();
        let d_buffer =
            if stores_d && !is_sole_owner { Some(on.empty(*grad.shape(), grad.dtype())?) } else { None };
        {
            let views =
                [self.derivative_operand.as_ref(), dweight.as_ref(), dbias.as_ref(), d_buffer.as_ref()]
                    .map(|t| t.map(Tensor::device_view));
            let [derivative, dweight, dbias, d_buffer] =
                views.each_ref().map(|t| t.as_ref().map(|t| t.slice()));
            let (dy, factors) = (grad.device_view(), factors.device_view());
            let derivative = match derivative {
                None => DerivativeSource::None,
                Some(mask) if self.is_masked => DerivativeSource::Mask(mask),
                Some(residual) => DerivativeSource::Residual(residual),
            };
            let d = stores_d.then(|| d_buffer.unwrap_or(dy.slice()));
            on.with_op_context(pass.reduce(dy.slice(), derivative, d, [dweight, dbias], factors.slice()))?;
        }
        let f = if stores_d { Activation::Identity } else { self.activation };
        let can_overwrite = (is_sole_owner || d_buffer.is_some()) && !wanted[3];
        let d = d_buffer.unwrap_or_else(|| grad.clone());
        let residual = wanted[3].then(|| d.clone());
        let dx = wanted[0].then(|| {
            let dx = if can_overwrite { d.clone() } else { on.empty(*d.shape(), d.dtype())? };
            let views = [&d, &factors, &dx].map(Tensor::device_view);
            let [of_d, factors, of_dx] = views.each_ref().map(|t| t.slice());
            on.with_op_context(pass.input_gradient(of_d, factors, f, of_dx))?;
            drop(views);
            Ok(dx)
        });
        Ok([dx.transpose()?, dweight, dbias, residual])
    }
}

/// ReLU of the sum of two batch norms of `[(x, sums, norm); 2]` over `c` channels, and the values saved for its backward pass.
pub(super) fn forward_pair(
    on: &OnGpu,
    norms: [(&Tensor, Option<&Tensor>, &BatchNorm); 2],
    c: usize,
) -> Result<(Tensor, BatchNormPair)> {
    // The shortcut's statistics are computed first, as without the fusion.
    let [(x, sums, norm), (other, other_sums, other_norm)] = norms;
    let of_other = channel_parameters(on, (other, other_sums), c, other_norm)?;
    let saved = [channel_parameters(on, (x, sums), c, norm)?, of_other];
    let mask = on.empty([x.numel() / c, mask_bytes(c)], DType::U8)?;
    let y = on.build(*x.shape(), x.dtype(), |y| {
        let views = [x, other, &saved[0], &saved[1], &mask].map(Tensor::device_view);
        let [x, other, of_x, of_other, mask] = views.each_ref().map(|t| t.slice());
        let pair = pair_kernel::BatchNormPair { gpu: &on.gpu, x: [x, other], saved: [of_x, of_other], c };
        pair.forward(y, mask)
    })?;
    let pair = BatchNormPair {
        x: [x.detach(), other.detach()],
        saved,
        mask,
        batch_statistics: norms.map(|(_, _, norm)| norm.training || norm.running.is_none()),
        parameter_dtypes: norms
            .map(|(_, _, norm)| norm.weight.or(norm.bias).map_or(DType::F32, |t| t.dtype())),
    };
    Ok((y, pair))
}

/// Values saved for the backward pass of a [pair](forward_pair).
pub(super) struct BatchNormPair {
    x: [Tensor; 2],
    /// `[SAVED_ROWS, c]` of each norm.
    saved: [Tensor; 2],
    mask: Tensor,
    batch_statistics: [bool; 2],
    /// Dtypes of weight and bias.
    parameter_dtypes: [DType; 2],
}

impl BatchNormPair {
    /// The wanted gradients of x, weight and bias of each norm. Overwrites `grad` if it has no other owner.
    pub(super) fn backward(&self, grad: Tensor, wanted: [[bool; 3]; 2]) -> Result<[[Option<Tensor>; 3]; 2]> {
        let operands = [("x", &self.x[0]), ("grad", &grad)];
        let on = OnGpu::for_backward(OP, &operands)?;
        let c = self.saved[0].dims()[1];
        let vector =
            |p: usize, k: usize| wanted[p][k].then(|| on.empty([c], self.parameter_dtypes[p])).transpose();
        let parameters = [[vector(0, 1)?, vector(0, 2)?], [vector(1, 1)?, vector(1, 2)?]];
        let factors = [on.empty([2, c], DType::F32)?, on.empty([2, c], DType::F32)?];
        let like_grad = || on.empty(*grad.shape(), grad.dtype());
        let dx = [
            wanted[0][0]
                .then(|| if grad.is_sole_owner() { Ok(grad.clone()) } else { like_grad() })
                .transpose()?,
            wanted[1][0].then(like_grad).transpose()?,
        ];
        {
            let (x, saved) =
                (self.x.each_ref().map(Tensor::device_view), self.saved.each_ref().map(Tensor::device_view));
            let pair = pair_kernel::BatchNormPair {
                gpu: &on.gpu,
                x: x.each_ref().map(|t| t.slice()),
                saved: saved.each_ref().map(|t| t.slice()),
                c,
            };
            let (dy, mask) = (grad.device_view(), self.mask.device_view());
            let views =
                parameters.each_ref().map(|of| of.each_ref().map(|t| t.as_ref().map(Tensor::device_view)));
            let of_parameters =
                views.each_ref().map(|of| of.each_ref().map(|t| t.as_ref().map(|t| t.slice())));
            let factor_views = factors.each_ref().map(Tensor::device_view);
            let factors = factor_views.each_ref().map(|t| t.slice());
            let reduced =
                pair.reduce(dy.slice(), mask.slice(), of_parameters, factors, self.batch_statistics);
            on.with_op_context(reduced)?;
            if dx.iter().any(Option::is_some) {
                let views = dx.each_ref().map(|t| t.as_ref().map(Tensor::device_view));
                let of_dx = views.each_ref().map(|t| t.as_ref().map(|t| t.slice()));
                on.with_op_context(pair.input_gradients(dy.slice(), mask.slice(), factors, of_dx))?;
            }
        }
        let [[weight, bias], [other_weight, other_bias]] = parameters;
        let [dx, other_dx] = dx;
        Ok([[dx, weight, bias], [other_dx, other_weight, other_bias]])
    }
}

/// Values saved for the backward pass of batch norm, activation and max pooling.
pub(super) struct BatchNormPool {
    x: Tensor,
    /// `[SAVED_ROWS, c]`, as written by the forward kernels.
    saved: Tensor,
    /// Index of each maximum within its window.
    index: Tensor,
    shape: PoolShape,
    activation: Activation,
    batch_statistics: bool,
    /// Dtype of weight and bias.
    parameter_dtype: DType,
}

impl BatchNormPool {
    /// Maxima of the normalized x over the windows of `shape`, and the values saved for the backward pass.
    pub(super) fn forward(
        on: &OnGpu,
        (x, sums): (&Tensor, Option<&Tensor>),
        c: usize,
        norm: &BatchNorm,
        activation: Activation,
        shape: PoolShape,
    ) -> Result<(Tensor, BatchNormPool)> {
        let saved = channel_parameters(on, (x, sums), c, norm)?;
        let pooled = [shape.n, shape.out[0], shape.out[1], c];
        let index = on.empty(pooled, DType::U8)?;
        let y = on.build(pooled, x.dtype(), |y| {
            let views = [x, &saved, &index].map(Tensor::device_view);
            let [x, saved, index] = views.each_ref().map(|t| t.slice());
            pool_kernel::forward(&on.gpu, &shape, [x, saved], activation, y, index)
        })?;
        let saved = BatchNormPool {
            x: x.detach(),
            saved,
            index,
            shape,
            activation,
            batch_statistics: norm.training || norm.running.is_none(),
            parameter_dtype: norm.weight.or(norm.bias).map_or(DType::F32, |t| t.dtype()),
        };
        Ok((y, saved))
    }

    /// The wanted gradients of x, weight and bias.
    pub(super) fn backward(&self, grad: Tensor, wanted: [bool; 3]) -> Result<[Option<Tensor>; 3]> {
        let operands = [("x", &self.x), ("grad", &grad)];
        let on = OnGpu::for_backward(OP, &operands)?;
        let c = self.shape.c;
        let vector = |wanted: bool| wanted.then(|| on.empty([c], self.parameter_dtype)).transpose();
        let parameters = [vector(wanted[1])?, vector(wanted[2])?];
        let factors = on.empty([2, c], DType::F32)?;
        let views = [&self.x, &self.saved, &grad, &self.index, &factors].map(Tensor::device_view);
        let [x, saved, dy, index, of_factors] = views.each_ref().map(|t| t.slice());
        let norm = kernel::BatchNormBackward {
            gpu: &on.gpu,
            x,
            c,
            saved,
            activation: self.activation,
            batch_statistics: self.batch_statistics,
        };
        let pass = pool_kernel::BatchNormPoolBackward { norm, shape: self.shape, dy, index };
        {
            let views = parameters.each_ref().map(|t| t.as_ref().map(Tensor::device_view));
            let parameters = views.each_ref().map(|t| t.as_ref().map(|t| t.slice()));
            on.with_op_context(pass.reduce(parameters, of_factors))?;
        }
        let dx = wanted[0]
            .then(|| on.build(*self.x.shape(), self.x.dtype(), |dx| pass.input_gradient(of_factors, dx)));
        let [weight, bias] = parameters;
        Ok([dx.transpose()?, weight, bias])
    }
}
