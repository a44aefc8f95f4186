//! Batch norm on a GPU. The running statistics are updated there, without synchronization.
mod channel_parameters;
mod pair;
mod pool;

use super::{BatchNorm, Nonlinearity, OutputGradient, saves_mask, with_batch_norm_backward};
use crate::cuda::DeviceSlice;
use crate::cuda::batch_norm::{self as kernel, DerivativeSource, PassBefore, mask_bytes};
use crate::cuda::pointwise_data_gradient::{NormSums, PointwiseDataGradient};
use crate::ops::gpu::OnGpu;
use crate::{Activation, DType, Reduction, Result, Tensor};
pub(super) use channel_parameters::momentum;
use channel_parameters::{ChannelParameters, StatisticsSource};
pub(super) use pair::{BatchNormPair, forward_pair};
pub(super) use pool::BatchNormPool;

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
        let fused =
            PointwiseDataGradient { gpu: &on.gpu, shape: term.shape(), dy, weight, skip, mask, norms };
        on.with_op_context(fused.is_preferred())?
    };
    if !is_preferred {
        return Ok(Joining::Separate(grad.compute()?));
    }
    let OutputGradient::Joined(term, skip) = grad else { unreachable!("matched above") };
    let s = term.shape();
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
