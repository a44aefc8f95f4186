//! ReLU of the sum of two batch norms on a GPU.
use super::channel_parameters::ChannelParameters;
use super::{Joining, OP, OutputGradient, join};
use crate::cuda::batch_norm::mask_bytes;
use crate::cuda::batch_norm_pair as kernel;
use crate::cuda::pointwise_data_gradient::NormSums;
use crate::ops::batch_norm::BatchNorm;
use crate::ops::gpu::OnGpu;
use crate::{DType, Reduction, Result, Tensor};

/// ReLU of the sum of two batch norms of `[(x, sums, norm); 2]` over `c` channels, and the values saved for its backward pass.
pub(in crate::ops::batch_norm) fn forward_pair(
    on: &OnGpu,
    norms: [(&Tensor, Option<&Tensor>, &BatchNorm); 2],
    c: usize,
) -> Result<(Tensor, BatchNormPair)> {
    let channels = ChannelParameters::of_pair(on, norms, c)?;
    let [x, other] = norms.map(|(x, ..)| x);
    let mask = on.empty([x.numel() / c, mask_bytes(c)], DType::U8)?;
    let y = on.build(*x.shape(), x.dtype(), |y| {
        let views = [x, other, &channels[0].saved, &channels[1].saved, &mask].map(Tensor::device_view);
        let [x, other, of_x, of_other, mask] = views.each_ref().map(|t| t.slice());
        let pair = kernel::BatchNormPair { gpu: &on.gpu, x: [x, other], saved: [of_x, of_other], c };
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
pub(in crate::ops::batch_norm) struct BatchNormPair {
    x: [Tensor; 2],
    channels: [ChannelParameters; 2],
    mask: Tensor,
    /// Dtypes of weight and bias.
    parameter_dtypes: [DType; 2],
}

impl BatchNormPair {
    /// The wanted gradients of x, weight and bias of each norm. Overwrites a gradient without another owner.
    pub(in crate::ops::batch_norm) fn backward(
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
        let pair = kernel::BatchNormPair {
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
