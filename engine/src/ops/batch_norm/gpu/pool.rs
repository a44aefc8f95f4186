//! Max pooling of a batch norm's activation on a GPU.
use super::OP;
use super::channel_parameters::ChannelParameters;
use crate::cuda::batch_norm::BatchNormBackward;
use crate::cuda::batch_norm_pool as kernel;
use crate::ops::batch_norm::BatchNorm;
use crate::ops::gpu::OnGpu;
use crate::ops::pool::PoolShape;
use crate::{Activation, DType, Reduction, Result, Tensor};

/// Values saved for the backward pass of batch norm, activation and max pooling.
pub(in crate::ops::batch_norm) struct BatchNormPool {
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
    pub(in crate::ops::batch_norm) fn forward(
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
            kernel::forward(&on.gpu, &shape, [x, saved], activation, y, index)
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
    pub(in crate::ops::batch_norm) fn backward(
        &self,
        grad: Tensor,
        wanted: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        let operands = [("x", &self.x), ("grad", &grad)];
        let on = OnGpu::for_backward(OP, &operands)?;
        let c = self.shape.c;
        let vector = |wanted: bool| wanted.then(|| on.empty([c], self.parameter_dtype)).transpose();
        let parameters = [vector(wanted[1])?, vector(wanted[2])?];
        let factors = on.empty([2, c], DType::F32)?;
        let views = [&self.x, &self.channels.saved, &grad, &self.index, &factors].map(Tensor::device_view);
        let [x, saved, dy, index, of_factors] = views.each_ref().map(|t| t.slice());
        let norm = BatchNormBackward {
            gpu: &on.gpu,
            x,
            c,
            saved,
            activation: self.activation,
            factors: self.channels.factors(wanted[0]),
        };
        let pass = kernel::BatchNormPoolBackward { norm, shape: self.shape, dy, index };
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
