//! Max pooling of a normalized convolution: the end of a stem.
use super::backward::Sums;
use super::{Channels, NormInput, NormOperands, check};
use crate::autograd::{Derivative, Gradients, Saved, Saves, is_grad_enabled, is_tracked, track};
use crate::cuda::{self, DeviceSlice, Gpu};
use crate::op::{
    CpuCall, Infos, Op, Spec, TensorInfo, composed_backward, compute_all, launch, no_second_derivative,
};
use crate::ops::batch_norm::cuda::BatchNormBackward;
use crate::ops::batch_norm::cuda::pool::{self as kernel, BatchNormPoolBackward};
use crate::ops::pool::PoolShape;
use crate::scalar::activation::is_fused;
use crate::{Activation, ConvBatchNorm, DType, Device, Pool2dOptions, Result, Tensor};
use std::sync::Arc;

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
        if x.device() == Device::Cpu || !is_tracked(&inputs) || !is_fused(activation) {
            let input = NormInput::of_convolution(&sums);
            return x.batch_norm_act_of(input, norm, activation, None)?.max_pool2d(pool);
        }
        let c = check(OP, &x, norm, None)?;
        let shape = x.max_pool_shape(pool)?;
        let channels = Channels::of((&x, sums.as_ref()), c, norm)?;
        let results = compute_all(&NormalizedMaxPool { shape, activation }, &[&x, &channels.saved])?;
        let operands = NormOperands::of(norm, None);
        let derivative = PoolDerivative { operands, channels, shape, activation };
        Ok(track(OP, &inputs, results, derivative).swap_remove(0))
    }
}

/// Maxima of the normalized x over windows, and the index of each within its window, on a GPU.
struct NormalizedMaxPool {
    shape: PoolShape,
    activation: Activation,
}

impl Op for NormalizedMaxPool {
    fn spec(&self) -> Spec {
        Spec::new(OP, &["x", "channels"]).mixed_dtypes()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let shape = self.shape.output();
        Ok(vec![TensorInfo::new(shape, x[0].dtype())?, TensorInfo::new(shape, DType::U8)?])
    }

    fn cpu(&self, _: &CpuCall) -> Result<()> {
        unreachable!("batch norm and max pooling are separate operations on the CPU")
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> cuda::Result<()> {
        kernel::forward(gpu, &self.shape, [x[0], x[1]], self.activation, y[0], y[1])
    }
}

/// Derivative of batch norm, activation and max pooling on a GPU.
struct PoolDerivative {
    operands: NormOperands,
    channels: Channels,
    shape: PoolShape,
    activation: Activation,
}

impl PoolDerivative {
    /// The wanted gradients of x, weight and bias.
    fn by_kernels(&self, saved: &Saved, dy: &Tensor, wanted: [bool; 4]) -> Result<[Option<Tensor>; 4]> {
        let (x, channels) = (saved.operand(0), &self.channels);
        let sums = Sums::new(x, channels, wanted, self.operands.parameter_dtype(saved, 0))?;
        let operands = [("x", x), ("channels", &channels.saved), ("grad", dy), ("index", saved.result(1))];
        fn pass<'g>(
            of: &PoolDerivative,
            sums: &Sums,
            gpu: &'g Arc<Gpu>,
            [x, saved, dy, index]: [DeviceSlice<'g>; 4],
        ) -> BatchNormPoolBackward<'g> {
            let (c, activation, factors) = (of.shape.c, of.activation, sums.kind);
            let norm = BatchNormBackward { gpu, x, c, saved, activation, factors };
            BatchNormPoolBackward { norm, shape: of.shape, dy, index }
        }
        launch(OP, &operands, |gpu, of| {
            let pass = pass(self, &sums, gpu, [of[0], of[1], of[2], of[3]]);
            sums.with_slices(|sums| pass.reduce(sums.parameters, sums.factors))
        })?;
        sums.finish(channels, wanted[0])?;
        let dx = wanted[0].then(|| {
            launch(OP, &operands, |gpu, of| {
                let pass = pass(self, &sums, gpu, [of[0], of[1], of[2], of[3]]);
                sums.with_slices(|sums| {
                    Tensor::build_on(gpu, *x.shape(), x.dtype(), |dx| pass.input_gradient(sums.factors, dx))
                })
            })
        });
        let dx = dx.transpose()?;
        let Sums { parameters: [weight, bias], .. } = sums;
        Ok([dx, weight, bias, None])
    }
}

impl Derivative for PoolDerivative {
    fn saves(&self, _: &[bool]) -> Saves {
        self.operands.saves(false).and_results(&[1])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        if !is_grad_enabled() {
            let gradients = self.by_kernels(saved, &dy, self.operands.wanted(needs))?;
            return Ok(self.operands.present(gradients));
        }
        if self.channels.group().is_some() {
            return Err(no_second_derivative(OP));
        }
        composed_backward(saved, &dy, needs, |t| {
            let (x, norm) = self.operands.norm(t);
            x.batch_norm_act(&norm, self.activation, None)?.max_pool2d(&self.shape.pool)
        })
    }
}
