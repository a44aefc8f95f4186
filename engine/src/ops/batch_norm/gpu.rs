//! Batch norm on a GPU. The running statistics are updated there, without synchronization.
use super::{BatchNorm, Nonlinearity, OutputGradient, saves_mask, with_batch_norm_backward};
use crate::cuda::batch_norm::{
    self as kernel, BackwardFactors, BatchNormParameters, DerivativeSource, PassBefore, RunningMomentum,
    SAVED_ROWS, mask_bytes,
};
use crate::cuda::pointwise_data_gradient::{NormSums, PointwiseDataGradient};
use crate::cuda::{
    DeviceSlice, batch_norm_pair as pair_kernel, batch_norm_pool as pool_kernel, conv_norm, sync_norm,
};
use crate::ops::gpu::OnGpu;
use crate::ops::pool::PoolShape;
use crate::{Activation, Collective, DType, Reduction, Result, Tensor};
use std::sync::Arc;

const OP: &str = "batch_norm";

pub(super) fn forward(
    on: &OnGpu,
    (x, sums): (&Tensor, Option<&Tensor>),
    c: usize,
    norm: &BatchNorm,
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let mut inputs = vec![x];
    inputs.extend(norm.weight);
    inputs.extend(norm.bias);
    inputs.extend(residual);
    let channels = ChannelParameters::of(on, (x, sums), c, norm)?;
    let reads_x = !matches!(channels.source, StatisticsSource::Running) && sums.is_none();
    let before = if reads_x { PassBefore::Reduction } else { PassBefore::Convolution };
    let mask = saves_mask(activation, residual, &inputs)
        .then(|| on.empty([x.numel() / c, mask_bytes(c)], DType::U8))
        .transpose()?;
    let y = on.build(*x.shape(), x.dtype(), |y| {
        let (x, saved) = (x.device_view(), channels.saved.device_view());
        let (residual, mask) = (residual.map(Tensor::device_view), mask.as_ref().map(Tensor::device_view));
        let (x, saved, residual) = (x.slice(), saved.slice(), residual.as_ref().map(|t| t.slice()));
        match (&mask, residual) {
            (Some(mask), Some(residual)) => {
                kernel::apply_masked(&on.gpu, (x, before), c, [saved, residual], activation, y, mask.slice())
            }
            _ => kernel::apply(&on.gpu, (x, before), c, saved, residual, activation, y),
        }
    })?;
    let joins = mask.is_some() && joins(x);
    let make = || {
        let saved = SavedForBackward {
            x: x.detach(),
            is_masked: mask.is_some(),
            derivative_operand: mask
                .or_else(|| residual.filter(|_| activation != Activation::Identity).map(Tensor::detach)),
            activation,
            channels,
            parameter_dtype: norm.weight.or(norm.bias).map_or(DType::F32, |t| t.dtype()),
        };
        move |grad: OutputGradient, wanted| saved.backward(grad, wanted)
    };
    let nonlinearity = Nonlinearity::BuiltIn(activation);
    Ok(with_batch_norm_backward(y, OP, (x, norm, residual), nonlinearity, joins, make))
}

/// True if the backward pass of a norm of x with a mask may compute the gradient of the convolution that reads its output.
pub(super) fn joins(x: &Tensor) -> bool {
    matches!(x.dtype(), DType::F16 | DType::BF16) && x.dims().last().is_some_and(|c| c.is_multiple_of(8))
}

/// Normalization of each channel.
struct ChannelParameters {
    /// Mean, inverse deviation, scale and shift, `[SAVED_ROWS, c]`.
    saved: Tensor,
    source: StatisticsSource,
}

/// Values whose mean and variance normalize.
enum StatisticsSource {
    /// Those of earlier batches, by the running statistics.
    Running,
    /// The batch's.
    Batch,
    /// Those of all ranks, and their number by channel, f32 `[1]`.
    Ranks(Arc<dyn Collective>, Tensor),
}

impl ChannelParameters {
    /// Computes the parameters from the batch's statistics (by way of its sums if given) or the running ones.
    fn of(
        on: &OnGpu,
        (x, sums): (&Tensor, Option<&Tensor>),
        c: usize,
        norm: &BatchNorm,
    ) -> Result<ChannelParameters> {
        let Some(group) = norm.synced() else {
            let has_own = norm.training || norm.running.is_none();
            let source = if has_own { StatisticsSource::Batch } else { StatisticsSource::Running };
            return Ok(ChannelParameters { saved: of_own_values(on, (x, sums), c, norm)?, source });
        };
        let own = on.build([2 * c + 1], DType::F32, |moments| match sums {
            Some(sums) => {
                let (x, sums) = (x.device_view(), sums.device_view());
                conv_norm::moments(&on.gpu, (x.slice(), sums.slice()), c, moments)
            }
            None => kernel::moments(&on.gpu, x.device_view().slice(), c, moments),
        })?;
        let all = group.all_gather(&own)?;
        let count = on.empty([1], DType::F32)?;
        let saved = on.build([SAVED_ROWS, c], DType::F32, |saved| {
            let (all, count) = (all.device_view(), count.device_view());
            with_parameters(on, norm, |parameters, momentum| {
                let momentum = momentum.expect("ranks are merged in training");
                sync_norm::merge(&on.gpu, all.slice(), c, parameters, momentum, [saved, count.slice()])
            })
        })?;
        Ok(ChannelParameters { saved, source: StatisticsSource::Ranks(group.clone(), count) })
    }

    /// Content of the factors that the backward pass's sums become, if the gradient of x is wanted.
    fn factors(&self, dx_wanted: bool) -> BackwardFactors {
        match &self.source {
            StatisticsSource::Batch => BackwardFactors::OfBatch,
            StatisticsSource::Ranks(..) if dx_wanted => BackwardFactors::Sums,
            _ => BackwardFactors::Zeros,
        }
    }

    /// Turns sums over all ranks into factors.
    fn finish_factors(&self, on: &OnGpu, sums: DeviceSlice) -> Result<()> {
        let StatisticsSource::Ranks(_, count) = &self.source else { return Ok(()) };
        let (saved, count) = (self.saved.device_view(), count.device_view());
        on.with_op_context(sync_norm::factors(&on.gpu, sums, saved.slice(), count.slice()))
    }

    /// The ranks whose values have the statistics.
    fn group(&self) -> Option<&Arc<dyn Collective>> {
        match &self.source {
            StatisticsSource::Ranks(group, _) => Some(group),
            _ => None,
        }
    }
}

/// Calls `f` with the parameters of a norm on the device and, in training, the weight of the batch in the running statistics, after it has
/// counted the batch.
fn with_parameters<R>(
    on: &OnGpu,
    norm: &BatchNorm,
    f: impl FnOnce(&BatchNormParameters, Option<RunningMomentum>) -> crate::cuda::Result<R>,
) -> crate::cuda::Result<R> {
    let views = [norm.weight, norm.bias, norm.running.map(|r| r.0), norm.running.map(|r| r.1)]
        .map(|t| t.map(Tensor::device_view));
    let [weight, bias, mean, var] = views.each_ref().map(|t| t.as_ref().map(|t| t.slice()));
    let running = mean.zip(var).map(|(mean, var)| [mean, var]);
    let batches = norm.counted_batches().map(Tensor::device_view);
    let momentum = norm.training.then(|| momentum(norm, batches.as_ref().map(|t| t.slice())));
    if let Some(RunningMomentum::Cumulative(batches)) = momentum {
        kernel::count_batch(&on.gpu, batches)?;
    }
    f(&BatchNormParameters { weight, bias, running, eps: norm.eps }, momentum)
}

/// [`ChannelParameters::saved`] without other ranks.
fn of_own_values(
    on: &OnGpu,
    (x, sums): (&Tensor, Option<&Tensor>),
    c: usize,
    norm: &BatchNorm,
) -> Result<Tensor> {
    on.build([SAVED_ROWS, c], DType::F32, |saved| {
        with_parameters(on, norm, |parameters, momentum| match (sums, parameters.running) {
            (Some(sums), _) => {
                let (x, sums) = (x.device_view(), sums.device_view());
                conv_norm::statistics(&on.gpu, (x.slice(), sums.slice()), c, parameters, momentum, saved)
            }
            (None, Some(running)) if !norm.training => {
                kernel::frozen_statistics(&on.gpu, running, c, parameters, saved)
            }
            _ => kernel::statistics(&on.gpu, x.device_view().slice(), c, parameters, momentum, saved),
        })
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
    channels: ChannelParameters,
    /// Dtype of weight and bias.
    parameter_dtype: DType,
}

impl SavedForBackward {
    /// The wanted gradients of x, weight, bias and residual. Overwrites a gradient without another owner.
    fn backward(&self, grad: OutputGradient, wanted: [bool; 4]) -> Result<[Option<Tensor>; 4]> {
        let operands = [("x", &self.x)];
        let on = OnGpu::for_backward(OP, &operands)?;
        let c = self.channels.saved.dims()[1];
        let vector = |wanted: bool| wanted.then(|| on.empty([c], self.parameter_dtype)).transpose();
        let [dweight, dbias] = [vector(wanted[1])?, vector(wanted[2])?];
        let factors = on.empty([2, c], DType::F32)?;
        let (x, saved) = (self.x.device_view(), self.channels.saved.device_view());
        let pass = kernel::BatchNormBackward {
            gpu: &on.gpu,
            x: x.slice(),
            c,
            saved: saved.slice(),
            activation: self.activation,
            factors: self.channels.factors(wanted[0]),
        };
        // Without a residual d = dy * f' is cheaper to recompute than to store.
        let stores_d = self.derivative_operand.is_some();
        let (d, is_own) = {
            let views = [self.derivative_operand.as_ref(), dweight.as_ref(), dbias.as_ref()]
                .map(|t| t.map(Tensor::device_view));
            let [derivative, dweight, dbias] = views.each_ref().map(|t| t.as_ref().map(|t| t.slice()));
            let of_factors = factors.device_view();
            let of_factors = of_factors.slice();
            let sums = NormSums { parameters: [dweight, dbias], factors: of_factors, kind: pass.factors };
            let mask = derivative.filter(|_| self.is_masked);
            match join(&on, grad, mask, &[(pass.x, pass.saved)], &[sums])? {
                Joining::Joined(d) => (d, true),
                Joining::Separate(grad) => {
                    let derivative = match derivative {
                        None => DerivativeSource::None,
                        Some(mask) if self.is_masked => DerivativeSource::Mask(mask),
                        Some(residual) => DerivativeSource::Residual(residual),
                    };
                    let is_sole_owner = grad.is_sole_owner();
                    let d = match stores_d && !is_sole_owner {
                        true => on.empty(*grad.shape(), grad.dtype())?,
                        false => grad.clone(),
                    };
                    {
                        let (dy, of_d) = (grad.device_view(), d.device_view());
                        let of_d = stores_d.then(|| of_d.slice());
                        let NormSums { parameters, factors, .. } = sums;
                        on.with_op_context(pass.reduce(dy.slice(), derivative, of_d, parameters, factors))?;
                    }
                    (d, stores_d || is_sole_owner)
                }
            }
        };
        if let Some(group) = self.channels.group().filter(|_| wanted[0]) {
            group.all_reduce(&factors, Reduction::Sum)?;
            self.channels.finish_factors(&on, factors.device_view().slice())?;
        }
        let f = if stores_d { Activation::Identity } else { self.activation };
        let can_overwrite = is_own && !wanted[3];
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

/// Result of [`join`].
enum Joining {
    /// The gradient of the activation's input; the sums are computed.
    Joined(Tensor),
    /// The gradient of the output, for the sums pass.
    Separate(Tensor),
}

/// Computes a gradient of the output that is not computed yet, with the mask's derivative and the sums of these norms, by one kernel if
/// that is faster.
fn join(
    on: &OnGpu,
    grad: OutputGradient,
    mask: Option<DeviceSlice>,
    norms: &[(DeviceSlice, DeviceSlice)],
    sums: &[NormSums],
) -> Result<Joining> {
    let (OutputGradient::Joined(term, skip), Some(mask)) = (&grad, mask) else {
        return Ok(Joining::Separate(grad.compute()?));
    };
    let is_preferred = {
        let (dy, weight) = (term.dy.device_view(), term.weight.device_view());
        let skip = skip.as_ref().map(Tensor::device_view);
        let skip = skip.as_ref().map(|t| t.slice());
        let (dy, weight) = (dy.slice(), weight.slice());
        let fused = PointwiseDataGradient { gpu: &on.gpu, shape: &term.s, dy, weight, skip, mask, norms };
        on.with_op_context(fused.is_preferred())?
    };
    if !is_preferred {
        return Ok(Joining::Separate(grad.compute()?));
    }
    let OutputGradient::Joined(term, skip) = grad else { unreachable!("matched above") };
    let s = &term.s;
    let d = match &skip {
        Some(skip) if skip.is_sole_owner() => skip.clone(),
        _ => on.empty([s.n, s.h, s.w, s.c_in], term.dy.dtype())?,
    };
    {
        let views = [&term.dy, &term.weight, &d].map(Tensor::device_view);
        let [dy, weight, of_d] = views.each_ref().map(|t| t.slice());
        let skip = skip.as_ref().map(Tensor::device_view);
        let skip = skip.as_ref().map(|t| t.slice());
        let fused = PointwiseDataGradient { gpu: &on.gpu, shape: s, dy, weight, skip, mask, norms };
        on.with_op_context(fused.compute(of_d, sums))?;
    }
    Ok(Joining::Joined(d))
}

/// ReLU of the sum of two batch norms of `[(x, sums, norm); 2]` over `c` channels, and the values saved for its backward pass.
pub(super) fn forward_pair(
    on: &OnGpu,
    norms: [(&Tensor, Option<&Tensor>, &BatchNorm); 2],
    c: usize,
) -> Result<(Tensor, BatchNormPair)> {
    // The shortcut's statistics are computed first, as without the fusion.
    let [(x, sums, norm), (other, other_sums, other_norm)] = norms;
    let of_other = ChannelParameters::of(on, (other, other_sums), c, other_norm)?;
    let channels = [ChannelParameters::of(on, (x, sums), c, norm)?, of_other];
    let mask = on.empty([x.numel() / c, mask_bytes(c)], DType::U8)?;
    let y = on.build(*x.shape(), x.dtype(), |y| {
        let views = [x, other, &channels[0].saved, &channels[1].saved, &mask].map(Tensor::device_view);
        let [x, other, of_x, of_other, mask] = views.each_ref().map(|t| t.slice());
        let pair = pair_kernel::BatchNormPair { gpu: &on.gpu, x: [x, other], saved: [of_x, of_other], c };
        pair.forward(y, mask)
    })?;
    let pair = BatchNormPair {
        x: [x.detach(), other.detach()],
        channels,
        mask,
        parameter_dtypes: norms
            .map(|(_, _, norm)| norm.weight.or(norm.bias).map_or(DType::F32, |t| t.dtype())),
    };
    Ok((y, pair))
}

/// Values saved for the backward pass of a [pair](forward_pair).
pub(super) struct BatchNormPair {
    x: [Tensor; 2],
    channels: [ChannelParameters; 2],
    mask: Tensor,
    /// Dtypes of weight and bias.
    parameter_dtypes: [DType; 2],
}

impl BatchNormPair {
    /// The wanted gradients of x, weight and bias of each norm. Overwrites a gradient without another owner.
    pub(super) fn backward(
        &self,
        grad: OutputGradient,
        wanted: [[bool; 3]; 2],
    ) -> Result<[[Option<Tensor>; 3]; 2]> {
        let operands = [("x", &self.x[0]), ("shortcut", &self.x[1])];
        let on = OnGpu::for_backward(OP, &operands)?;
        let c = self.channels[0].saved.dims()[1];
        let vector =
            |p: usize, k: usize| wanted[p][k].then(|| on.empty([c], self.parameter_dtypes[p])).transpose();
        let parameters = [[vector(0, 1)?, vector(0, 2)?], [vector(1, 1)?, vector(1, 2)?]];
        // In one tensor, which one reduction adds over the ranks.
        let all_factors = on.empty([2, 2, c], DType::F32)?;
        let factors = [all_factors.narrow(0, 0, 1)?, all_factors.narrow(0, 1, 1)?];
        let dx_wanted = wanted.iter().any(|wanted| wanted[0]);
        let x = self.x.each_ref().map(Tensor::device_view);
        let saved = self.channels.each_ref().map(|of| of.saved.device_view());
        let pair = pair_kernel::BatchNormPair {
            gpu: &on.gpu,
            x: x.each_ref().map(|t| t.slice()),
            saved: saved.each_ref().map(|t| t.slice()),
            c,
        };
        let mask = self.mask.device_view();
        let factor_views = factors.each_ref().map(Tensor::device_view);
        let factors = factor_views.each_ref().map(|t| t.slice());
        let d = {
            let views =
                parameters.each_ref().map(|of| of.each_ref().map(|t| t.as_ref().map(Tensor::device_view)));
            let of_parameters =
                views.each_ref().map(|of| of.each_ref().map(|t| t.as_ref().map(|t| t.slice())));
            let kinds = self.channels.each_ref().map(|of| of.factors(dx_wanted));
            let norms = [0, 1].map(|p| (pair.x[p], pair.saved[p]));
            let sums = [0, 1].map(|p| NormSums {
                parameters: of_parameters[p],
                factors: factors[p],
                kind: kinds[p],
            });
            match join(&on, grad, Some(mask.slice()), &norms, &sums)? {
                Joining::Joined(d) => d,
                Joining::Separate(grad) => {
                    let dy = grad.device_view();
                    on.with_op_context(pair.reduce(dy.slice(), mask.slice(), of_parameters, factors, kinds))?;
                    drop(dy);
                    grad
                }
            }
        };
        let like_d = || on.empty(*d.shape(), d.dtype());
        let dx = [
            wanted[0][0].then(|| if d.is_sole_owner() { Ok(d.clone()) } else { like_d() }).transpose()?,
            wanted[1][0].then(like_d).transpose()?,
        ];
        if dx_wanted {
            if let Some(group) = self.channels.iter().find_map(ChannelParameters::group) {
                group.all_reduce(&all_factors, Reduction::Sum)?;
            }
            for (channels, factors) in self.channels.iter().zip(factors) {
                channels.finish_factors(&on, factors)?;
            }
            // The mask of d is applied again where the sums were joined, with the same result.
            let dy = d.device_view();
            let views = dx.each_ref().map(|t| t.as_ref().map(Tensor::device_view));
            let of_dx = views.each_ref().map(|t| t.as_ref().map(|t| t.slice()));
            on.with_op_context(pair.input_gradients(dy.slice(), mask.slice(), factors, of_dx))?;
        }
        let [[weight, bias], [other_weight, other_bias]] = parameters;
        let [dx, other_dx] = dx;
        Ok([[dx, weight, bias], [other_dx, other_weight, other_bias]])
    }
}

/// Values saved for the backward pass of batch norm, activation and max pooling.
pub(super) struct BatchNormPool {
    x: Tensor,
    channels: ChannelParameters,
    /// Index of each maximum within its window.
    index: Tensor,
    shape: PoolShape,
    activation: Activation,
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
        let channels = ChannelParameters::of(on, (x, sums), c, norm)?;
        let pooled = [shape.n, shape.out[0], shape.out[1], c];
        let index = on.empty(pooled, DType::U8)?;
        let y = on.build(pooled, x.dtype(), |y| {
            let views = [x, &channels.saved, &index].map(Tensor::device_view);
            let [x, saved, index] = views.each_ref().map(|t| t.slice());
            pool_kernel::forward(&on.gpu, &shape, [x, saved], activation, y, index)
        })?;
        let saved = BatchNormPool {
            x: x.detach(),
            channels,
            index,
            shape,
            activation,
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
        let views = [&self.x, &self.channels.saved, &grad, &self.index, &factors].map(Tensor::device_view);
        let [x, saved, dy, index, of_factors] = views.each_ref().map(|t| t.slice());
        let norm = kernel::BatchNormBackward {
            gpu: &on.gpu,
            x,
            c,
            saved,
            activation: self.activation,
            factors: self.channels.factors(wanted[0]),
        };
        let pass = pool_kernel::BatchNormPoolBackward { norm, shape: self.shape, dy, index };
        {
            let views = parameters.each_ref().map(|t| t.as_ref().map(Tensor::device_view));
            let parameters = views.each_ref().map(|t| t.as_ref().map(|t| t.slice()));
            on.with_op_context(pass.reduce(parameters, of_factors))?;
        }
        if let Some(group) = self.channels.group().filter(|_| wanted[0]) {
            group.all_reduce(&factors, Reduction::Sum)?;
            self.channels.finish_factors(&on, of_factors)?;
        }
        let dx = wanted[0]
            .then(|| on.build(*self.x.shape(), self.x.dtype(), |dx| pass.input_gradient(of_factors, dx)));
        let [weight, bias] = parameters;
        Ok([dx.transpose()?, weight, bias])
    }
}
