//! Batch normalisation (Ioffe and Szegedy, 2015), fused with a residual addition and an activation.
mod backward;
mod channels;
mod composition;
pub(crate) mod cpu;
pub(crate) mod cuda;
mod deferred;
mod fused;
mod moments;
mod normalize;
mod output_gradient;
mod pair;
mod pool;

use crate::autograd::{Derivative, Gradients, PendingTerm, Saved, Saves, is_grad_enabled, is_tracked, track};
use crate::op::{Mismatch, check_device, check_parameters, compute_all, no_second_derivative};
use crate::scalar::activation::is_fused;
use crate::{Activation, Collective, DType, Device, Result, Tensor, shapes_only};
use backward::{Backward, DerivativeSource};
use channels::Channels;
use composition::{Composition, Nonlinearity, NormOperands};
pub(super) use deferred::NormalizedElements;
use normalize::Normalize;
use output_gradient::OutputGradient;
pub use pair::ConvBatchNorm;
use std::sync::Arc;

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
    /// The parameters and running statistics that are present, by name.
    fn operands(&self) -> Vec<(&'static str, &'a Tensor)> {
        let mut operands = vec![];
        operands.extend(self.weight.map(|t| ("weight", t)));
        operands.extend(self.bias.map(|t| ("bias", t)));
        operands.extend(self.running.iter().flat_map(|(m, v)| [("running_mean", *m), ("running_var", *v)]));
        operands
    }

    /// The number of batches, if it changes with this one.
    fn counted_batches(&self) -> Option<&'a Tensor> {
        self.num_batches_tracked.filter(|_| self.training && self.running.is_some())
    }

    /// The ranks whose statistics are merged in this pass.
    fn synced(&self) -> Option<&'a Arc<dyn Collective>> {
        self.sync_group.filter(|_| self.training)
    }

    /// True if the statistics of the batch normalize it.
    pub(super) fn uses_batch_statistics(&self) -> bool {
        self.training || self.running.is_none()
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
        if !is_fused(activation) {
            let y = self.batch_norm_act_of(input, norm, Activation::Identity, residual)?;
            return y.activate(activation);
        }
        let c = check("batch_norm", self, norm, residual)?;
        let sums = if let NormInput::WithSums(sums) = input { Some(sums) } else { None };
        let channels = Channels::of((self, sums), c, norm)?;
        let operands = NormOperands::of(norm, residual);
        let inputs: Vec<&Tensor> =
            [self].into_iter().chain(norm.weight).chain(norm.bias).chain(residual).collect();
        let stores_mask = has_binary_derivative(activation) && residual.is_some() && is_tracked(&inputs);
        let reads_x = norm.uses_batch_statistics() && sums.is_none();
        let normalize = Normalize { c, activation, stores_mask, follows_reduction: reads_x };
        let is_internal = matches!(input, NormInput::Internal) && self.device() == Device::Cpu;
        let results = match is_internal && residual.is_none() && !shapes_only::is_active() {
            true => vec![deferred::normalized(self, &channels, activation, is_tracked(&inputs))?],
            false => {
                let of: Vec<&Tensor> = [self, &channels.saved].into_iter().chain(residual).collect();
                compute_all(&normalize, &of)?
            }
        };
        let joins = stores_mask && joins(self);
        let derivative = NormDerivative { operands, channels, activation, is_masked: stores_mask, joins };
        Ok(track("batch_norm", &inputs, results, derivative).swap_remove(0))
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

/// Derivative of batch norm, residual addition and activation. Operands are x and those of [`NormOperands`]; the second result is the mask
/// of the activation's derivative, if there is one.
struct NormDerivative {
    operands: NormOperands,
    channels: Channels,
    activation: Activation,
    is_masked: bool,
    joins: bool,
}

impl NormDerivative {
    /// The residual, where it determines the activation's derivative.
    fn saves_residual(&self) -> bool {
        self.operands.has_residual() && !self.is_masked && self.activation != Activation::Identity
    }

    /// The wanted gradients of x, weight, bias and residual.
    fn by_kernels(
        &self,
        saved: &Saved,
        grad: OutputGradient,
        wanted: [bool; 4],
    ) -> Result<[Option<Tensor>; 4]> {
        let derivative = if self.is_masked {
            DerivativeSource::Mask(saved.result(1))
        } else if self.saves_residual() {
            DerivativeSource::Residual(saved.operand(self.operands.residual()))
        } else {
            DerivativeSource::Input
        };
        let pass = Backward {
            x: saved.operand(0),
            channels: &self.channels,
            activation: self.activation,
            derivative,
            parameter_dtype: self.operands.parameter_dtype(saved, 0),
        };
        pass.gradients(grad, wanted)
    }

    fn gradients(&self, saved: &Saved, grad: OutputGradient, needs: &[bool]) -> Result<Gradients> {
        let gradients = self.by_kernels(saved, grad, self.operands.wanted(needs))?;
        Ok(self.operands.present(gradients))
    }
}

impl Derivative for NormDerivative {
    fn saves(&self, _: &[bool]) -> Saves {
        let saves = self.operands.saves(self.saves_residual());
        if self.is_masked { saves.and_results(&[1]) } else { saves }
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        if !is_grad_enabled() {
            return self.gradients(saved, OutputGradient::Computed(dy), needs);
        }
        if self.channels.group().is_some() {
            return Err(no_second_derivative("batch_norm"));
        }
        let nonlinearity = match self.is_masked {
            false => Nonlinearity::BuiltIn(self.activation),
            true => {
                // The gradient of the residual for a dy of ones.
                let x = saved.operand(0);
                let ones = OutputGradient::Computed(Tensor::ones(*x.shape(), x.dtype(), &x.device())?);
                let [.., derivative] = self.by_kernels(saved, ones, [false, false, false, true])?;
                Nonlinearity::Derivative(derivative.expect("it was wanted"))
            }
        };
        Composition::new(&self.operands, saved, nonlinearity).backward(&dy, needs)
    }

    fn joins(&self) -> bool {
        self.joins
    }

    fn backward_joined(
        &self,
        saved: &Saved,
        term: &dyn PendingTerm,
        sum: Option<Tensor>,
        needs: &[bool],
    ) -> Result<Gradients> {
        self.gradients(saved, OutputGradient::of_term(term, sum)?, needs)
    }
}

/// True if the backward pass of a norm of x with a mask may compute the gradient of the convolution that reads its output.
fn joins(x: &Tensor) -> bool {
    x.device() != Device::Cpu && x.dtype().is_half() && x.dims().last().is_some_and(|c| c.is_multiple_of(8))
}

/// True for activations whose derivative is 0 or 1, and follows from x and the residual: one bit per element.
fn has_binary_derivative(activation: Activation) -> bool {
    matches!(activation, Activation::Relu | Activation::Relu6)
}

/// Checks the operands and returns the number of channels.
fn check(op: &'static str, x: &Tensor, norm: &BatchNorm, residual: Option<&Tensor>) -> Result<usize> {
    let parameters: Vec<&Tensor> = norm.operands().iter().map(|(_, t)| *t).collect();
    let mut operands = vec![("x", x)];
    operands.extend(residual.map(|t| ("residual", t)));
    operands.extend(norm.operands());
    let device = check_device(op, &operands)?;
    let channels = || -> std::result::Result<usize, Mismatch> {
        match (device, x.dtype()) {
            (Device::Cuda(_), DType::F64) => return Err(Mismatch::DType("f32, f16 or bf16 on a GPU")),
            (_, dtype) if !dtype.is_float() => return Err(Mismatch::DType("f32, f16, bf16 or f64")),
            (_, dtype) if residual.is_some_and(|r| r.dtype() != dtype) => {
                return Err(Mismatch::DType("operands of one dtype"));
            }
            _ => {}
        }
        check_parameters(x, &parameters)?;
        let c = x.dims().last().copied().unwrap_or_default();
        if x.rank() < 2 || c == 0 || x.numel() == 0 {
            return Err("x must be [..., c], and not empty".into());
        }
        if parameters.iter().any(|t| t.dims() != [c]) || residual.is_some_and(|r| r.shape() != x.shape()) {
            let why = "parameters and running statistics must be";
            return Err(format!("{why} [{c}], and the residual must have x's shape").into());
        }
        if norm.training && norm.sync_group.is_none() && x.numel() == c {
            return Err("training needs more than one value per channel; use a larger batch".into());
        }
        Ok(c)
    };
    channels().map_err(|mismatch| mismatch.error(op, &operands))
}
