//! Batch norm with an expression as its activation: two passes forward and two backward, with generated kernels.
use super::{BatchNorm, Channels, Composition, Nonlinearity, NormOperands, check};
use crate::autograd::{Derivative, Gradients, Saved, Saves, is_grad_enabled, track};
use crate::fuse::{BatchNormKernels, Expression, GradStorage, KernelOutput, KernelSignature};
use crate::ops::fuse::FusedCall;
use crate::ops::wide;
use crate::{Device, Error, Result, Tensor};
use std::sync::Arc;

const OP: &str = "batch_norm_fused";

impl Tensor {
    /// `activation(batch_norm(x) + residual)` for an activation that is an expression of one input, as one operation of two passes forward
    /// and two backward. [`Tensor::batch_norm_act`] has the usual activations built in. f32, f16, bf16; f64 on the CPU.
    pub fn batch_norm_fused(
        &self,
        norm: &BatchNorm,
        activation: &Expression,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let c = check(OP, self, norm, residual)?;
        let mut operands = vec![("x", self)];
        operands.extend(norm.operands());
        operands.extend(residual.map(|t| ("residual", t)));
        if activation.inputs() != 1 {
            let why = format!("the activation must have one input, not {}", activation.inputs());
            return Err(Error::value(OP, &operands, why));
        }
        if norm.synced().is_some() {
            let why = "statistics of several ranks are not supported; use batch_norm_act, or batch_norm and the activation";
            return Err(Error::value(OP, &operands, why));
        }
        let by_channel = ChannelVectors::of(self, &Channels::of((self, None), c, norm)?)?;
        let ChannelVectors { scale, shift, .. } = &by_channel;
        // On the CPU computing d again costs more than storing it; a GPU is limited by memory traffic.
        let between = match (residual, self.device()) {
            (Some(_), _) => GradStorage::Residual,
            (None, Device::Cpu) => GradStorage::Stored,
            (None, Device::Cuda(_)) => GradStorage::Recomputed,
        };
        let passes = activation.batch_norm(between);
        let call = FusedCall {
            shape: *self.shape(),
            c,
            inputs: [self, scale, shift].into_iter().chain(residual).map(Tensor::detach).collect(),
        };
        let signature =
            KernelSignature { inputs: call.signature(), outputs: vec![KernelOutput::Elements(self.dtype())] };
        let y = call.run(&passes.forward, signature)?.remove(0);
        let inputs: Vec<&Tensor> =
            [self].into_iter().chain(norm.weight).chain(norm.bias).chain(residual).collect();
        let derivative = FusedDerivative {
            operands: NormOperands::of(norm, residual),
            activation: activation.clone(),
            passes,
            between,
            batch_statistics: norm.uses_batch_statistics(),
            by_channel,
        };
        Ok(track(OP, &inputs, vec![y], derivative).swap_remove(0))
    }
}

/// Vectors with an element per channel, in the compute dtype.
struct ChannelVectors {
    mean: Tensor,
    inv_std: Tensor,
    /// `weight / std`
    scale: Tensor,
    /// `bias - mean * scale`
    shift: Tensor,
}

impl ChannelVectors {
    fn of(x: &Tensor, channels: &Channels) -> Result<ChannelVectors> {
        let row = |k: usize| channels.row(k)?.to_dtype(wide(x.dtype()));
        Ok(ChannelVectors { mean: row(0)?, inv_std: row(1)?, scale: row(2)?, shift: row(3)? })
    }
}

/// Derivative of batch norm, residual addition and an expression.
struct FusedDerivative {
    operands: NormOperands,
    activation: Expression,
    passes: Arc<BatchNormKernels>,
    between: GradStorage,
    /// Mean and variance are the batch's, and gradients flow through them.
    batch_statistics: bool,
    by_channel: ChannelVectors,
}

impl Derivative for FusedDerivative {
    fn saves(&self, _: &[bool]) -> Saves {
        self.operands.saves(true)
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        if is_grad_enabled() {
            let nonlinearity = Nonlinearity::Expression(&self.activation);
            return Composition::new(&self.operands, saved, nonlinearity).backward(&dy, needs);
        }
        let gradients = self.by_kernels(saved, dy, self.operands.wanted(needs))?;
        Ok(self.operands.present(gradients))
    }
}

impl FusedDerivative {
    /// The wanted gradients of x, weight, bias and residual.
    fn by_kernels(&self, saved: &Saved, grad: Tensor, wanted: [bool; 4]) -> Result<[Option<Tensor>; 4]> {
        let x = saved.operand(0);
        let residual = self.operands.has_residual().then(|| saved.operand(self.operands.residual()));
        let ChannelVectors { mean, inv_std, scale, shift } = &self.by_channel;
        let (passes, stores_d) = (&self.passes, self.between != GradStorage::Recomputed);
        let elements = KernelOutput::Elements(x.dtype());
        let sums = self.call(x, [x, scale, shift, mean].into_iter().chain(residual).chain([&grad]));
        let mut outputs = if stores_d { vec![elements] } else { vec![] };
        outputs.extend([KernelOutput::Sums; 2]);
        let mut results =
            sums.run(&passes.sums, KernelSignature { inputs: sums.signature(), outputs })?.into_iter();
        let d = if stores_d { results.next() } else { None };
        let mut next = || results.next().expect("both sums").to_dtype(mean.dtype());
        let (sum, dot_sum) = (next()?, next()?);

        let dx = wanted[0].then(|| {
            // With the batch's statistics, dx depends on the sums of d and of d * (x - mean).
            let inv_rows = if self.batch_statistics { mean.numel() as f64 / x.numel() as f64 } else { 0.0 };
            let k2 = scale.mul(&inv_std.square()?)?.mul(&dot_sum)?.mul_scalar(-inv_rows)?;
            let k3 = scale.mul(&sum)?.mul_scalar(-inv_rows)?.sub(&k2.mul(mean)?)?;
            let input = match &d {
                Some(d) => self.call(x, [x, scale, &k2, &k3, d]),
                None => self.call(x, [x, scale, shift, &k2, &k3, &grad]),
            };
            let signature = KernelSignature { inputs: input.signature(), outputs: vec![elements] };
            Ok(input.run(&passes.input, signature)?.remove(0))
        });
        let of = |k: usize, value: &dyn Fn() -> Result<Tensor>| {
            let dtype = self.operands.parameter_dtype(saved, 0);
            wanted[1 + k].then(|| value()?.to_dtype(dtype)).transpose()
        };
        let weight = of(0, &|| dot_sum.mul(inv_std))?;
        let bias = of(1, &|| Ok(sum.clone()))?;
        Ok([dx.transpose()?, weight, bias, d.filter(|_| wanted[3])])
    }

    fn call<'a>(&self, x: &Tensor, inputs: impl IntoIterator<Item = &'a Tensor>) -> FusedCall {
        let c = self.by_channel.mean.numel();
        FusedCall { shape: *x.shape(), c, inputs: inputs.into_iter().cloned().collect() }
    }
}
