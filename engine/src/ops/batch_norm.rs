//! Batch normalisation (Ioffe and Szegedy, 2015), fused with a residual addition and an activation.
mod composed;
mod deferred;
mod fused;
mod gpu;
mod output_gradient;
mod pair;
mod pool;
mod sync;

use super::gpu::{OnGpu, check_parameters};
use crate::autograd::is_tracked;
use crate::cpu;
use crate::cpu::batch_norm::{self as kernel, DerivativeOperand};
use crate::cpu::stored::Stored;
use crate::{Activation, Collective, DType, Element, Error, Result, Tensor, shapes_only};
use composed::{Nonlinearity, with_batch_norm_backward};
pub(super) use deferred::NormalizedElements;
use deferred::deferred;
use output_gradient::OutputGradient;
pub use pair::ConvBatchNorm;
use std::sync::Arc;
use sync::Moments;

/// Options and parameters of a batch normalisation over the last axis. Tensors are `[c]`, of the input's dtype or, with an f16 or bf16
/// input, all f32.
#[derive(Clone, Copy, Default)]
pub struct BatchNorm<'a> {
    /// Scale (gamma); ones when absent.
    pub weight: Option<&'a Tensor>,
    /// Offset (beta); zeros when absent.
    pub bias: Option<&'a Tensor>,
    /// Running mean and variance: updated in training, used in evaluation.
    pub running: Option<(&'a Tensor, &'a Tensor)>,
    /// Training mode: normalise by the batch's statistics and update the running ones.
    pub training: bool,
    /// Weight of the batch in the running statistics: `running = (1 - momentum) * running + momentum * batch`.
    pub momentum: f64,
    /// For running statistics that are averages over all batches (PyTorch's `momentum=None`): the number of batches so far, an i64 scalar
    /// on the device of x. Training increments it, and the weight of the batch is 1 / number instead of `momentum`. A captured CUDA graph
    /// counts its replays.
    pub num_batches_tracked: Option<&'a Tensor>,
    /// Added to the variance.
    pub eps: f64,
    /// Ranks whose values the batch's statistics comprise in training (PyTorch's `SyncBatchNorm`); their batches may differ in size. The
    /// forward pass gathers 2c + 1 values of each rank, and the backward pass adds 2c. Gradients of weight and bias are those of this
    /// rank's values. The backward pass has no derivative.
    pub sync_group: Option<&'a Arc<dyn Collective>>,
}

impl<'a> BatchNorm<'a> {
    pub(super) fn operands(&self) -> Vec<(&'static str, &'a Tensor)> {
        let mut operands = vec![];
        operands.extend(self.weight.map(|t| ("weight", t)));
        operands.extend(self.bias.map(|t| ("bias", t)));
        operands.extend(self.running.iter().flat_map(|(m, v)| [("running_mean", *m), ("running_var", *v)]));
        operands
    }
}

impl<'a> BatchNorm<'a> {
    /// The number of batches, if it changes with this one.
    pub(super) fn counted_batches(&self) -> Option<&'a Tensor> {
        self.num_batches_tracked.filter(|_| self.training && self.running.is_some())
    }

    /// The ranks whose statistics are merged in this pass.
    pub(super) fn synced(&self) -> Option<&'a Arc<dyn Collective>> {
        self.sync_group.filter(|_| self.training)
    }

    /// Counts the batch on the CPU, if batches are counted; its weight in the running statistics.
    pub(super) fn count_batch(&self) -> Result<f64> {
        let Some(number) = self.counted_batches() else { return Ok(self.momentum) };
        let mut number = number.write::<i64>()?;
        number[0] += 1;
        Ok(1.0 / number[0] as f64)
    }
}

impl Tensor {
    /// `(x - mean) / sqrt(var + eps) * weight + bias` over all axes but the last, for x `[…, c]`. In training, and in evaluation without
    /// running statistics, mean and biased variance are the batch's; the running variance is updated with the unbiased one.
    /// f32, f16, bf16; f64 on the CPU.
    pub fn batch_norm(&self, norm: &BatchNorm) -> Result<Tensor> {
        self.batch_norm_act(norm, Activation::Identity, None)
    }

    /// `activation(batch_norm(x) + residual)` as one operation of two passes forward and two backward.
    ///
    /// In addition to x it saves for the backward pass: nothing without a residual or without an activation; one bit per element with a
    /// residual and ReLU or ReLU6; otherwise the residual.
    pub fn batch_norm_act(
        &self,
        norm: &BatchNorm,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        self.batch_norm_act_of(NormInput::Elements, norm, activation, residual)
    }

    /// [`Tensor::batch_norm_act`] of the output of a convolution.
    pub(super) fn batch_norm_act_of(
        &self,
        input: NormInput,
        norm: &BatchNorm,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        if !cpu::activation::is_fused(activation) {
            let y = self.batch_norm_act_of(input, norm, Activation::Identity, residual)?;
            return y.activate(activation);
        }
        let c = check(self, norm, residual)?;
        let mut operands = vec![("x", self)];
        operands.extend(norm.operands());
        operands.extend(residual.map(|t| ("residual", t)));
        if let Some(on) = OnGpu::of("batch_norm", &operands)? {
            let sums = if let NormInput::WithSums(sums) = input { Some(sums) } else { None };
            return gpu::forward(&on, (self, sums), c, norm, activation, residual);
        }
        let defers = matches!(input, NormInput::Internal) && residual.is_none() && !shapes_only::is_active();
        dispatch_stored!("batch_norm", [("x", self)], T => forward::<T>(self, c, norm, activation, residual, defers))
    }
}

/// Knowledge about the input of a batch norm.
#[derive(Clone, Copy)]
pub(super) enum NormInput<'a> {
    /// None.
    Elements,
    /// Nothing else refers to the input, so it never changes.
    Internal,
    /// On a GPU: channel sums of `conv2d_with_sums`.
    WithSums(&'a Tensor),
}

impl<'a> NormInput<'a> {
    /// Output of a convolution without other users, with its channel sums if they were computed.
    pub(super) fn of_convolution(sums: &'a Option<Tensor>) -> NormInput<'a> {
        sums.as_ref().map_or(NormInput::Internal, NormInput::WithSums)
    }
}

fn forward<T: Stored>(
    x: &Tensor,
    c: usize,
    norm: &BatchNorm,
    activation: Activation,
    residual: Option<&Tensor>,
    defers: bool,
) -> Result<Tensor> {
    let batch_statistics = norm.training || norm.running.is_none();
    let (mean, var) = match norm.running {
        Some((mean, var)) if !batch_statistics => (to_f64(mean)?, to_f64(var)?),
        _ => kernel::statistics(&x.read::<T>()?, c),
    };
    let mut moments = Moments { count: (x.numel() / c) as f64, mean, var };
    if let Some(group) = norm.synced() {
        moments = moments.of_all_ranks(&**group)?;
    }
    if norm.training {
        update_running(norm, &moments)?;
    }
    let Moments { count, mean, var } = moments;
    let inv_std: Vec<f64> = var.iter().map(|v| 1.0 / (v + norm.eps).sqrt()).collect();
    let weight = norm.weight.map_or_else(|| Ok(vec![1.0; c]), to_f64)?;
    let bias = norm.bias.map_or_else(|| Ok(vec![0.0; c]), to_f64)?;
    let scale = from_f64(c, |j| weight[j] * inv_std[j]);
    let shift = from_f64(c, |j| bias[j] - mean[j] * weight[j] * inv_std[j]);
    let mut inputs = vec![x];
    inputs.extend(norm.weight);
    inputs.extend(norm.bias);
    inputs.extend(residual);
    // The kernel writes every byte of the mask.
    let mask = saves_mask(activation, residual, &inputs)
        .then(|| Tensor::build([x.numel().div_ceil(8)], |_: &mut [u8]| ()))
        .transpose()?;
    let y = if defers {
        deferred::<T>(x, &scale, &shift, activation, is_tracked(&inputs))
    } else {
        let (x_data, r) = (x.read::<T>()?, residual.map(|r| r.read::<T>()).transpose()?);
        let mut mask = mask.as_ref().map(|mask| mask.write::<u8>()).transpose()?;
        Tensor::build(*x.shape(), |y: &mut [T]| match (&r, &mut mask) {
            (Some(r), Some(mask)) => {
                kernel::apply_masked::<T>(&x_data, &scale, &shift, r, activation, y, mask)
            }
            _ => kernel::apply::<T>(&x_data, &scale, &shift, r.as_deref(), activation, y),
        })?
    };
    let make = || {
        let saved = SavedForBackward::<T> {
            x: x.detach(),
            residual: residual
                .filter(|_| mask.is_none() && activation != Activation::Identity)
                .map(Tensor::detach),
            mask,
            activation,
            batch_statistics,
            count,
            sync_group: norm.synced().cloned(),
            mean,
            inv_std,
            weight,
            scale,
            shift,
            parameter_dtype: norm.weight.or(norm.bias).map_or(x.dtype(), Tensor::dtype),
        };
        move |grad: OutputGradient, wanted| saved.backward(grad.compute()?, wanted)
    };
    Ok(with_batch_norm_backward(
        y,
        "batch_norm",
        (x, norm, residual),
        Nonlinearity::BuiltIn(activation),
        false,
        make,
    ))
}

/// True when the forward pass saves the activation's derivative as one bit per element: it is 0 or 1, and does not follow from x alone.
fn saves_mask(activation: Activation, residual: Option<&Tensor>, inputs: &[&Tensor]) -> bool {
    has_binary_derivative(activation) && residual.is_some() && is_tracked(inputs)
}

fn has_binary_derivative(activation: Activation) -> bool {
    matches!(activation, Activation::Relu | Activation::Relu6)
}

/// Values saved for the backward pass; vectors have an element per channel.
struct SavedForBackward<T: Stored> {
    x: Tensor,
    /// With a residual and an activation, one of the two: the derivative as one bit per element, or the residual.
    mask: Option<Tensor>,
    residual: Option<Tensor>,
    activation: Activation,
    /// Mean and variance are the batch's, and gradients flow through them.
    batch_statistics: bool,
    /// Number of values per channel, of all ranks with a group.
    count: f64,
    sync_group: Option<Arc<dyn Collective>>,
    mean: Vec<f64>,
    inv_std: Vec<f64>,
    weight: Vec<f64>,
    scale: Vec<T::Compute>,
    shift: Vec<T::Compute>,
    /// Dtype of weight and bias.
    parameter_dtype: DType,
}

impl<T: Stored> SavedForBackward<T> {
    /// The wanted gradients of x, weight, bias and residual. Overwrites `grad` if it has no other owner.
    fn backward(&self, grad: Tensor, wanted: [bool; 4]) -> Result<[Option<Tensor>; 4]> {
        let c = self.scale.len();
        let x = self.x.read::<T>()?;
        let mask = self.mask.as_ref().map(|t| t.read::<u8>()).transpose()?;
        let residual = self.residual.as_ref().map(|t| t.read::<T>()).transpose()?;
        let derivative = match (&mask, &residual) {
            (Some(mask), _) => DerivativeOperand::Mask(&mask[..]),
            (None, Some(r)) => DerivativeOperand::Residual(&r[..]),
            (None, None) => DerivativeOperand::Input,
        };
        let (scale, shift, activation) = (&self.scale[..], &self.shift[..], self.activation);
        let pass = kernel::BatchNormBackward { x: &x, scale, shift, activation, derivative };

        let mean: Vec<T::Compute> = from_f64(c, |j| self.mean[j]);
        // d is the gradient of the activation's input, and of the residual; dy without an activation. It is not stored where it is cheap
        // to recompute from x.
        let is_identity = activation == Activation::Identity;
        let by_input = matches!(derivative, DerivativeOperand::Input);
        let recompute = is_identity || (by_input && activation != Activation::Silu);
        let (d, (own_sums, own_dot_sums)) = if recompute {
            let sums = pass.sums(&grad.read::<T>()?, &mean);
            (grad, sums)
        } else {
            in_place::<T, _>(grad, |dy, d| pass.gradient_and_sums(dy, &mean, d))?
        };

        // With the batch's statistics, dx depends on the sums of d and of d * (x - mean).
        let n = self.count;
        let [sums, dot_sums] = match self.sync_group.as_ref().filter(|_| wanted[0]) {
            Some(group) => sync::sum_over_ranks(&**group, [&own_sums, &own_dot_sums])?,
            None => [own_sums.clone(), own_dot_sums.clone()],
        };
        let g = |j: usize| self.weight[j] * self.inv_std[j];
        let through = |j: usize| {
            if self.batch_statistics { -g(j) * self.inv_std[j].powi(2) * dot_sums[j] / n } else { 0.0 }
        };
        let offset = |j: usize| {
            if self.batch_statistics { -g(j) * sums[j] / n - through(j) * self.mean[j] } else { 0.0 }
        };
        let [k1, k2, k3] = [from_f64::<T::Compute>(c, g), from_f64(c, through), from_f64(c, offset)];
        let k = [&k1[..], &k2[..], &k3[..]];
        let vector = |wanted: bool, f: &dyn Fn(usize) -> f64| {
            let gradient = wanted.then(|| Tensor::from_vec(from_f64::<T::Compute>(c, f), [c])).transpose()?;
            gradient.map(|gradient| gradient.to_dtype(self.parameter_dtype)).transpose()
        };
        let weight = vector(wanted[1], &|j| own_dot_sums[j] * self.inv_std[j])?;
        let bias = vector(wanted[2], &|j| own_sums[j])?;
        let residual = wanted[3].then(|| d.clone());
        let dx = wanted[0].then(|| {
            let (dx, ()) = in_place::<T, _>(d, |d, dx| match d {
                _ if recompute => pass.input_gradient(d, k, dx),
                Some(d) => kernel::combine::<T>(&x, d, k, dx),
                None => kernel::combine_in_place::<T>(&x, k, dx),
            })?;
            Ok(dx)
        });
        Ok([dx.transpose()?, weight, bias, residual])
    }
}

/// Calls `f(dy, out)`: in place on `grad`, with `dy` absent, if it has no other owner, else with a new `out`. Returns out and f's result.
fn in_place<T: Element, R>(grad: Tensor, f: impl FnOnce(Option<&[T]>, &mut [T]) -> R) -> Result<(Tensor, R)> {
    if grad.is_sole_owner() {
        let result = f(None, &mut grad.write::<T>()?);
        return Ok((grad, result));
    }
    let dy = grad.read::<T>()?;
    let mut result = None;
    let out = Tensor::build(*grad.shape(), |out: &mut [T]| result = Some(f(Some(&dy), out)))?;
    Ok((out, result.expect("build fills the tensor")))
}

/// `running = (1 - momentum) * running + momentum * batch`, with the unbiased variance.
fn update_running(norm: &BatchNorm, Moments { count, mean, var }: &Moments) -> Result<()> {
    let Some((running_mean, running_var)) = norm.running else { return Ok(()) };
    let (unbiased, momentum) = (count / (count - 1.0), norm.count_batch()?);
    for (running, batch, factor) in [(running_mean, mean, 1.0), (running_var, var, unbiased)] {
        dispatch_any!(running.dtype(), T => {
            for (r, b) in running.write::<T>()?.iter_mut().zip(batch) {
                *r = T::from_f64((1.0 - momentum) * r.to_f64() + momentum * b * factor);
            }
        });
    }
    Ok(())
}

fn to_f64(t: &Tensor) -> Result<Vec<f64>> {
    Ok(dispatch_any!(t.dtype(), T => t.read::<T>()?.iter().map(|v| v.to_f64()).collect()))
}

fn from_f64<T: Element>(c: usize, f: impl Fn(usize) -> f64) -> Vec<T> {
    (0..c).map(|j| T::from_f64(f(j))).collect()
}

/// Checks the operands and returns the number of channels.
pub(super) fn check(x: &Tensor, norm: &BatchNorm, residual: Option<&Tensor>) -> Result<usize> {
    let parameters = norm.operands();
    let mut operands = vec![("x", x)];
    operands.extend(residual.map(|t| ("residual", t)));
    super::same_dtype("batch_norm", &operands)?;
    operands.extend(&parameters);
    check_parameters("batch_norm", &operands, &parameters)?;
    let c = x.dims().last().copied().unwrap_or_default();
    if x.rank() < 2 || c == 0 || x.numel() == 0 {
        return Err(Error::shape("batch_norm", &operands, "x must be [..., c], and not empty"));
    }
    if parameters.iter().any(|(_, t)| t.dims() != [c]) || residual.is_some_and(|r| r.shape() != x.shape()) {
        return Err(Error::shape(
            "batch_norm",
            &operands,
            format!("parameters and running statistics must be [{c}], and the residual must have x's shape"),
        ));
    }
    if norm.training && norm.sync_group.is_none() && x.numel() == c {
        return Err(Error::shape(
            "batch_norm",
            &operands,
            "training needs more than one value per channel; use a larger batch",
        ));
    }
    Ok(c)
}
