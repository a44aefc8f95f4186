//! ReLU of the sum of two normalized convolutions: the end of a residual block whose shortcut has a convolution.
use super::backward::{Joining, Sums, join, uninitialized};
use super::channels::{finish_factors, of_pair};
use super::cuda::pair as kernel;
use super::{BatchNorm, Channels, NormInput, NormOperands, OutputGradient, check, joins};
use crate::autograd::{Derivative, Gradients, PendingTerm, Saved, Saves, is_grad_enabled, is_tracked, track};
use crate::cuda::{self, DeviceSlice, Gpu};
use crate::op::{
    CpuCall, Infos, Op, Spec, TensorInfo, composed_backward, compute_all, launch, no_second_derivative,
};
use crate::ops::batch_norm::cuda::mask_bytes;
use crate::{Activation, Conv2dOptions, DType, Device, Reduction, Result, Tensor};
use std::sync::Arc;

const OP: &str = "batch_norm_pair";

/// Operands of a convolution followed by a batch norm.
#[derive(Clone, Copy)]
pub struct ConvBatchNorm<'a> {
    /// Input of the convolution.
    pub x: &'a Tensor,
    /// Weight of the convolution.
    pub weight: &'a Tensor,
    /// Options of the convolution.
    pub options: Conv2dOptions,
    /// Batch norm of the convolution's output.
    pub norm: BatchNorm<'a>,
}

impl ConvBatchNorm<'_> {
    /// `relu(batch_norm(conv2d(x, weight)) + shortcut)`, where `shortcut` is another convolution with batch norm. Shapes and dtypes are
    /// those of [`Tensor::conv2d_batch_norm_act`].
    ///
    /// On a GPU neither normalized tensor is stored: one pass applies both normalizations, and two passes compute the gradients of both.
    pub fn add_relu(&self, shortcut: &ConvBatchNorm) -> Result<Tensor> {
        let (other, other_sums) = shortcut.convolve()?;
        let (x, sums) = self.convolve()?;
        let norms = [(&x, &self.norm), (&other, &shortcut.norm)];
        let inputs: Vec<&Tensor> = (norms.iter())
            .flat_map(|(x, norm)| [Some(*x), norm.weight, norm.bias].into_iter().flatten())
            .collect();
        if x.device() == Device::Cpu || !is_tracked(&inputs) {
            let (of_x, of_other) = (NormInput::of_convolution(&sums), NormInput::of_convolution(&other_sums));
            let none = Activation::Identity;
            let residual = other.batch_norm_act_of(of_other, &shortcut.norm, none, None)?;
            return x.batch_norm_act_of(of_x, &self.norm, Activation::Relu, Some(&residual));
        }
        let c = check(OP, &x, &self.norm, Some(&other))?;
        check(OP, &other, &shortcut.norm, None)?;
        let summed = [(&x, sums.as_ref(), &self.norm), (&other, other_sums.as_ref(), &shortcut.norm)];
        let channels = of_pair(summed, c)?;
        let results =
            compute_all(&NormalizedPair { c }, &[&x, &other, &channels[0].saved, &channels[1].saved])?;
        let operands = norms.map(|(_, norm)| NormOperands::of(norm, None));
        let derivative = PairDerivative { operands, channels, joins: joins(&x) };
        Ok(track(OP, &inputs, results, derivative).swap_remove(0))
    }

    /// The convolution's output, and the sums of its channels where they were computed with it.
    pub(super) fn convolve(&self) -> Result<(Tensor, Option<Tensor>)> {
        match self.norm.uses_batch_statistics() {
            true => self.x.conv2d_with_sums(self.weight, &self.options),
            false => Ok((self.x.conv2d(self.weight, None, &self.options)?, None)),
        }
    }
}

/// ReLU of the sum of two batch norms over `c` channels, and the mask of its derivative, on a GPU.
struct NormalizedPair {
    c: usize,
}

impl Op for NormalizedPair {
    fn spec(&self) -> Spec {
        Spec::new(OP, &["x", "shortcut", "channels"]).mixed_dtypes()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let mask = TensorInfo::new([x[0].numel() / self.c, mask_bytes(self.c)], DType::U8)?;
        Ok(vec![TensorInfo::of(x[0]), mask])
    }

    fn cpu(&self, _: &CpuCall) -> Result<()> {
        unreachable!("two batch norms are separate operations on the CPU")
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> cuda::Result<()> {
        pair(gpu, x, self.c).forward(y[0], y[1])
    }
}

/// The kernels of two batch norms, from both inputs and both saved statistics.
fn pair<'g>(gpu: &'g Arc<Gpu>, of: &[DeviceSlice<'g>], c: usize) -> kernel::BatchNormPair<'g> {
    kernel::BatchNormPair { gpu, x: [of[0], of[1]], saved: [of[2], of[3]], c }
}

/// Derivative of ReLU of the sum of two batch norms on a GPU.
struct PairDerivative {
    operands: [NormOperands; 2],
    channels: [Channels; 2],
    joins: bool,
}

impl PairDerivative {
    /// The gradients of the operands that need one. Overwrites a gradient without another owner.
    fn gradients(&self, saved: &Saved, grad: OutputGradient, needs: &[bool]) -> Result<Gradients> {
        let [operands, of_other] = &self.operands;
        let [channels, other_channels] = &self.channels;
        let first = operands.len();
        let (x, other, mask) = (saved.operand(0), saved.operand(first), saved.result(1));
        let wanted = [operands.wanted(&needs[..first]), of_other.wanted(&needs[first..])];
        let c = channels.saved.dims()[1];
        // In one tensor, which one reduction adds over the ranks.
        let factors = launch(OP, &[("x", x)], |gpu, _| uninitialized(gpu, &[2, 2, c], DType::F32))?;
        let dtypes = [operands.parameter_dtype(saved, 0), of_other.parameter_dtype(saved, first)];
        let sums = [0, 1]
            .map(|p| Sums::with_factors(factors.narrow(0, p, 1)?, &self.channels[p], wanted[p], dtypes[p]));
        let [sums, other_sums] = sums;
        let (sums, other_sums) = (sums?, other_sums?);
        let slices = [
            ("x", x),
            ("shortcut", other),
            ("channels", &channels.saved),
            ("channels", &other_channels.saved),
            ("mask", mask),
        ];
        let norms = [(x, channels), (other, other_channels)];
        let d = match join(grad, Some(mask), &norms, &[&sums, &other_sums])? {
            Joining::Joined(d) => d,
            Joining::Separate(grad) => {
                let with_grad: Vec<_> = slices.into_iter().chain([("grad", &grad)]).collect();
                launch(OP, &with_grad, |gpu, of| {
                    sums.with_slices(|a| {
                        other_sums.with_slices(|b| {
                            let parameters = [a.parameters, b.parameters];
                            let (factors, kinds) = ([a.factors, b.factors], [a.kind, b.kind]);
                            pair(gpu, of, c).reduce(of[5], of[4], parameters, factors, kinds)
                        })
                    })
                })?;
                grad
            }
        };
        let mut dx = [None, None];
        if wanted.iter().any(|wanted| wanted[0]) {
            if let Some(group) = self.channels.iter().find_map(Channels::group) {
                group.all_reduce(&factors, Reduction::Sum)?;
            }
            finish_factors(channels, &sums.factors)?;
            finish_factors(other_channels, &other_sums.factors)?;
            let with_grad: Vec<_> = slices.into_iter().chain([("grad", &d)]).collect();
            // The mask of d is applied again where the sums were joined, with the same result.
            dx = launch(OP, &with_grad, |gpu, of| {
                let like_d = || Tensor::build_on(gpu, *d.shape(), d.dtype(), |_| Ok(()));
                let own = || if d.is_sole_owner() { Ok(d.clone()) } else { like_d() };
                let dx = [wanted[0][0].then(own).transpose()?, wanted[1][0].then(like_d).transpose()?];
                let views = dx.each_ref().map(|t| t.as_ref().map(Tensor::device_view));
                let of_dx = views.each_ref().map(|t| t.as_ref().map(|t| t.slice()));
                let factors = [&sums.factors, &other_sums.factors].map(Tensor::device_view);
                let factors = factors.each_ref().map(|view| view.slice());
                pair(gpu, of, c).input_gradients(of[5], of[4], factors, of_dx)?;
                drop(views);
                Ok(dx)
            })?;
        }
        let [dx, other_dx] = dx;
        let Sums { parameters: [weight, bias], .. } = sums;
        let mut gradients = operands.present([dx, weight, bias, None]);
        let Sums { parameters: [weight, bias], .. } = other_sums;
        gradients.extend(of_other.present([other_dx, weight, bias, None]));
        Ok(gradients)
    }
}

impl Derivative for PairDerivative {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::all_operands().and_results(&[1])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        if !is_grad_enabled() {
            return self.gradients(saved, OutputGradient::Computed(dy), needs);
        }
        if self.channels.iter().any(|channels| channels.group().is_some()) {
            return Err(no_second_derivative(OP));
        }
        let [operands, of_other] = &self.operands;
        composed_backward(saved, &dy, needs, |t| {
            let ((x, norm), (other, of_other)) =
                (operands.norm(&t[..operands.len()]), of_other.norm(&t[operands.len()..]));
            x.batch_norm_act(&norm, Activation::Relu, Some(&other.batch_norm(&of_other)?))
        })
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
