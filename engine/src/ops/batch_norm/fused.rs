//! Batch norm with an expression as its activation: two passes forward and two backward, with generated kernels.
use super::{BatchNorm, Nonlinearity, OutputGradient, check, gpu, with_batch_norm_backward};
use crate::cpu::batch_norm as kernel;
use crate::cuda::batch_norm::{self as gpu_kernel, BatchNormParameters, RunningMomentum, SAVED_ROWS};
use crate::fuse::{BatchNormKernels, Expression, GradStorage, KernelOutput, KernelSignature};
use crate::ops::fuse::FusedCall;
use crate::ops::gpu::OnGpu;
use crate::{DType, Device, Error, Result, Tensor};
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
        let c = check(self, norm, residual)?;
        let mut operands = vec![("x", self)];
        operands.extend(norm.operands());
        operands.extend(residual.map(|t| ("residual", t)));
        if activation.inputs() != 1 {
            let why = format!("the activation must have one input, not {}", activation.inputs());
            return Err(Error::value(OP, &operands, why));
        }
        if !self.dtype().is_float() {
            return Err(Error::dtype(OP, &operands, "f32, f16, bf16 or f64"));
        }
        if norm.synced().is_some() {
            let why = "statistics of several ranks are not supported; use batch_norm_act, or batch_norm and the activation";
            return Err(Error::value(OP, &operands, why));
        }
        let batch_statistics = norm.training || norm.running.is_none();
        let by_channel = match OnGpu::of(OP, &operands)? {
            Some(on) => ChannelVectors::on_gpu(&on, self, c, norm, batch_statistics)?,
            None => ChannelVectors::on_cpu(self, c, norm, batch_statistics)?,
        };
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
        let dtypes = [norm.weight, norm.bias].map(|t| t.map(Tensor::dtype));
        let make = || {
            let saved = SavedForBackward {
                x: self.detach(),
                residual: residual.map(Tensor::detach),
                passes,
                between,
                batch_statistics,
                by_channel,
                dtypes,
            };
            move |grad: OutputGradient, wanted| saved.backward(grad.compute()?, wanted)
        };
        let nonlinearity = Nonlinearity::Expression(activation.clone());
        Ok(with_batch_norm_backward(y, OP, (self, norm, residual), nonlinearity, false, make))
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
    /// As [`ChannelVectors::on_cpu`], computed by the kernels of the handwritten batch norm.
    fn on_gpu(
        on: &OnGpu,
        x: &Tensor,
        c: usize,
        norm: &BatchNorm,
        batch_statistics: bool,
    ) -> Result<ChannelVectors> {
        let saved = on.empty([SAVED_ROWS, c], DType::F32)?;
        {
            let views = [norm.weight, norm.bias, norm.running.map(|r| r.0), norm.running.map(|r| r.1)]
                .map(|t| t.map(Tensor::device_view));
            let [weight, bias, mean, var] = views.each_ref().map(|t| t.as_ref().map(|t| t.slice()));
            let running = mean.zip(var).map(|(mean, var)| [mean, var]);
            let parameters = BatchNormParameters { weight, bias, running, eps: norm.eps };
            let (x, saved) = (x.device_view(), saved.device_view());
            let (x, saved) = (x.slice(), saved.slice());
            let batches = norm.counted_batches().map(Tensor::device_view);
            let momentum = norm.training.then(|| gpu::momentum(norm, batches.as_ref().map(|t| t.slice())));
            if let Some(RunningMomentum::Cumulative(batches)) = momentum {
                on.with_op_context(gpu_kernel::count_batch(&on.gpu, batches))?;
            }
            on.with_op_context(match running {
                Some(running) if !batch_statistics => {
                    gpu_kernel::frozen_statistics(&on.gpu, running, c, &parameters, saved)
                }
                _ => gpu_kernel::statistics(&on.gpu, x, c, &parameters, momentum, saved),
            })?;
        }
        let row = |k: usize| saved.narrow(0, k, 1)?.reshape([saved.dims()[1]]);
        Ok(ChannelVectors { mean: row(0)?, inv_std: row(1)?, scale: row(2)?, shift: row(3)? })
    }

    /// From the batch's statistics or the running ones, which are updated in training.
    fn on_cpu(x: &Tensor, c: usize, norm: &BatchNorm, batch_statistics: bool) -> Result<ChannelVectors> {
        let numbers = |t: &Tensor| t.detach().to_dtype(DType::F64)?.to_vec::<f64>();
        let (mean, var) = match norm.running {
            Some((mean, var)) if !batch_statistics => (numbers(mean)?, numbers(var)?),
            _ => match x.dtype() {
                DType::F64 => kernel::statistics(&x.read::<f64>()?, c),
                _ => kernel::statistics(&x.detach().to_dtype(DType::F32)?.read::<f32>()?, c),
            },
        };
        if let Some(running) = norm.running.filter(|_| norm.training) {
            let (rows, momentum) = ((x.numel() / c) as f64, norm.count_batch()?);
            for (running, batch, factor) in [(running.0, &mean, 1.0), (running.1, &var, rows / (rows - 1.0))]
            {
                let new: Vec<f64> = (numbers(running)?.iter().zip(batch))
                    .map(|(old, batch)| (1.0 - momentum) * old + momentum * batch * factor)
                    .collect();
                running.copy_from(&Tensor::from_vec(new, [c])?.to_dtype(running.dtype())?)?;
            }
        }
        let inv_std: Vec<f64> = var.iter().map(|v| 1.0 / (v + norm.eps).sqrt()).collect();
        let weight = norm.weight.map_or_else(|| Ok(vec![1.0; c]), numbers)?;
        let bias = norm.bias.map_or_else(|| Ok(vec![0.0; c]), numbers)?;
        let scale: Vec<f64> = weight.iter().zip(&inv_std).map(|(w, i)| w * i).collect();
        let shift: Vec<f64> = (0..c).map(|j| bias[j] - mean[j] * scale[j]).collect();
        let dtype = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let [mean, inv_std, scale, shift] =
            [mean, inv_std, scale, shift].map(|v| Tensor::from_vec(v, [c]).and_then(|t| t.to_dtype(dtype)));
        Ok(ChannelVectors { mean: mean?, inv_std: inv_std?, scale: scale?, shift: shift? })
    }
}

/// Values saved for the backward pass.
struct SavedForBackward {
    x: Tensor,
    residual: Option<Tensor>,
    passes: Arc<BatchNormKernels>,
    between: GradStorage,
    /// Mean and variance are the batch's, and gradients flow through them.
    batch_statistics: bool,
    by_channel: ChannelVectors,
    /// Dtypes of weight and bias.
    dtypes: [Option<DType>; 2],
}

impl SavedForBackward {
    /// The wanted gradients of x, weight, bias and residual.
    fn backward(&self, grad: Tensor, wanted: [bool; 4]) -> Result<[Option<Tensor>; 4]> {
        let ChannelVectors { mean, inv_std, scale, shift } = &self.by_channel;
        let (passes, stores_d) = (&self.passes, self.between != GradStorage::Recomputed);
        let elements = KernelOutput::Elements(self.x.dtype());
        let sums = self.call([&self.x, scale, shift, mean].into_iter().chain(&self.residual).chain([&grad]));
        let mut outputs = if stores_d { vec![elements] } else { vec![] };
        outputs.extend([KernelOutput::Sums; 2]);
        let mut results =
            sums.run(&passes.sums, KernelSignature { inputs: sums.signature(), outputs })?.into_iter();
        let d = if stores_d { results.next() } else { None };
        let mut next = || results.next().expect("both sums").to_dtype(mean.dtype());
        let (sum, dot_sum) = (next()?, next()?);

        let dx = wanted[0].then(|| {
            // With the batch's statistics, dx depends on the sums of d and of d * (x - mean).
            let inv_rows =
                if self.batch_statistics { mean.numel() as f64 / self.x.numel() as f64 } else { 0.0 };
            let k2 = scale.mul(&inv_std.square()?)?.mul(&dot_sum)?.mul_scalar(-inv_rows)?;
            let k3 = scale.mul(&sum)?.mul_scalar(-inv_rows)?.sub(&k2.mul(mean)?)?;
            let input = match &d {
                Some(d) => self.call([&self.x, scale, &k2, &k3, d]),
                None => self.call([&self.x, scale, shift, &k2, &k3, &grad]),
            };
            let signature = KernelSignature { inputs: input.signature(), outputs: vec![elements] };
            Ok(input.run(&passes.input, signature)?.remove(0))
        });
        let of = |k: usize, value: &dyn Fn() -> Result<Tensor>| {
            self.dtypes[k].filter(|_| wanted[1 + k]).map(|dtype| value()?.to_dtype(dtype)).transpose()
        };
        let weight = of(0, &|| dot_sum.mul(inv_std))?;
        let bias = of(1, &|| Ok(sum.clone()))?;
        Ok([dx.transpose()?, weight, bias, d.filter(|_| wanted[3])])
    }

    fn call<'a>(&self, inputs: impl IntoIterator<Item = &'a Tensor>) -> FusedCall {
        let c = self.by_channel.mean.numel();
        FusedCall { shape: *self.x.shape(), c, inputs: inputs.into_iter().cloned().collect() }
    }
}
