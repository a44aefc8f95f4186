//! The backward pass of a batch norm on a GPU.
use super::{Backward, DerivativeSource};
use crate::cuda::{self, DeviceSlice, Gpu};
use crate::op::launch;
use crate::ops::batch_norm::channels::{Channels, factors_kind, finish_factors};
use crate::ops::batch_norm::cuda::{self as kernel};
use crate::ops::batch_norm::output_gradient::OutputGradient;
use crate::ops::conv::cuda::pointwise_data_gradient::{NormSums, PointwiseDataGradient};
use crate::{Activation, DType, Reduction, Result, Shape, Tensor};
use std::sync::Arc;

const OP: &str = "batch_norm";

impl Backward<'_> {
    pub(super) fn on_gpu(&self, grad: OutputGradient, wanted: [bool; 4]) -> Result<[Option<Tensor>; 4]> {
        let c = self.channels.saved.dims()[1];
        let (mask, residual) = match self.derivative {
            DerivativeSource::Input => (None, None),
            DerivativeSource::Mask(mask) => (Some(mask), None),
            DerivativeSource::Residual(residual) => (None, Some(residual)),
        };
        // Without a residual d = dy * f' is cheaper to recompute than to store.
        let stores_d = mask.is_some() || residual.is_some();
        let norms = [(self.x, self.channels)];
        let sums = Sums::new(self.x, self.channels, wanted, self.parameter_dtype)?;
        let (d, is_own) = match join(grad, mask, &norms, &[&sums])? {
            Joining::Joined(d) => (d, true),
            Joining::Separate(grad) => {
                let is_sole_owner = grad.is_sole_owner();
                let mut operands = vec![("x", self.x), ("channels", &self.channels.saved), ("grad", &grad)];
                operands.extend(mask.map(|t| ("mask", t)).or(residual.map(|t| ("residual", t))));
                let d = launch(OP, &operands, |gpu, of| {
                    let derivative = match of.get(3) {
                        None => kernel::DerivativeSource::None,
                        Some(mask) if residual.is_none() => kernel::DerivativeSource::Mask(*mask),
                        Some(residual) => kernel::DerivativeSource::Residual(*residual),
                    };
                    let d = match stores_d && !is_sole_owner {
                        true => Tensor::build_on(gpu, *grad.shape(), grad.dtype(), |_| Ok(()))?,
                        false => grad.clone(),
                    };
                    let of_d = d.device_view();
                    let of_d = stores_d.then(|| of_d.slice());
                    sums.with_slices(|NormSums { parameters, factors, kind }| {
                        let pass = self.pass(gpu, [of[0], of[1]], c, kind);
                        pass.reduce(of[2], derivative, of_d, parameters, factors)
                    })?;
                    Ok(d.clone())
                })?;
                (d, stores_d || is_sole_owner)
            }
        };
        sums.finish(self.channels, wanted[0])?;
        let f = if stores_d { Activation::Identity } else { self.activation };
        let residual = wanted[3].then(|| d.clone());
        let overwrites = is_own && !wanted[3];
        let dx = wanted[0].then(|| {
            let operands =
                [("x", self.x), ("channels", &self.channels.saved), ("grad", &d), ("sums", &sums.factors)];
            launch(OP, &operands, |gpu, of| {
                let dx = match overwrites {
                    true => d.clone(),
                    false => Tensor::build_on(gpu, *d.shape(), d.dtype(), |_| Ok(()))?,
                };
                let pass = self.pass(gpu, [of[0], of[1]], c, sums.kind);
                pass.input_gradient(of[2], of[3], f, dx.device_view().slice())?;
                Ok(dx)
            })
        });
        let dx = dx.transpose()?;
        let Sums { parameters: [weight, bias], .. } = sums;
        Ok([dx, weight, bias, residual])
    }

    fn pass<'g>(
        &self,
        gpu: &'g Arc<Gpu>,
        [x, saved]: [DeviceSlice<'g>; 2],
        c: usize,
        factors: kernel::BackwardFactors,
    ) -> kernel::BatchNormBackward<'g> {
        kernel::BatchNormBackward { gpu, x, c, saved, activation: self.activation, factors }
    }
}

/// Memory for the sums of a backward pass over images: the wanted gradients of weight and bias, and the factors of the next pass, `[2, c]` f32.
pub(in crate::ops::batch_norm) struct Sums {
    pub(in crate::ops::batch_norm) parameters: [Option<Tensor>; 2],
    pub(in crate::ops::batch_norm) factors: Tensor,
    pub(in crate::ops::batch_norm) kind: kernel::BackwardFactors,
}

impl Sums {
    /// For the norm of x, where x, weight and bias (the first three elements of `wanted`) need a gradient.
    pub(in crate::ops::batch_norm) fn new(
        x: &Tensor,
        channels: &Channels,
        wanted: [bool; 4],
        dtype: DType,
    ) -> Result<Sums> {
        let c = channels.saved.dims()[1];
        let factors = launch(OP, &[("x", x)], |gpu, _| uninitialized(gpu, &[2, c], DType::F32))?;
        Sums::with_factors(factors, channels, wanted, dtype)
    }

    /// [`Sums::new`] with memory for the factors.
    pub(in crate::ops::batch_norm) fn with_factors(
        factors: Tensor,
        channels: &Channels,
        wanted: [bool; 4],
        dtype: DType,
    ) -> Result<Sums> {
        let (c, kind) = (channels.saved.dims()[1], factors_kind(channels, wanted[0]));
        let parameters = launch(OP, &[("sums", &factors)], |gpu, _| {
            let vector = |wanted: bool| wanted.then(|| uninitialized(gpu, &[c], dtype)).transpose();
            Ok([vector(wanted[1])?, vector(wanted[2])?])
        })?;
        Ok(Sums { parameters, factors, kind })
    }

    /// Calls `f` with the memory.
    pub(in crate::ops::batch_norm) fn with_slices<R>(&self, f: impl FnOnce(NormSums) -> R) -> R {
        let views = self.parameters.each_ref().map(|t| t.as_ref().map(Tensor::device_view));
        let parameters = views.each_ref().map(|t| t.as_ref().map(|t| t.slice()));
        f(NormSums { parameters, factors: self.factors.device_view().slice(), kind: self.kind })
    }

    /// Makes factors of the sums of all ranks, if other ranks have a part and the gradient of x is wanted.
    pub(in crate::ops::batch_norm) fn finish(&self, channels: &Channels, dx_wanted: bool) -> Result<()> {
        if let Some(group) = channels.group().filter(|_| dx_wanted) {
            group.all_reduce(&self.factors, Reduction::Sum)?;
            finish_factors(channels, &self.factors)?;
        }
        Ok(())
    }
}

/// A tensor of arbitrary content.
pub(in crate::ops::batch_norm) fn uninitialized(
    gpu: &Arc<Gpu>,
    dims: &[usize],
    dtype: DType,
) -> cuda::Result<Tensor> {
    Tensor::build_on(gpu, Shape::must_fit(dims), dtype, |_| Ok(()))
}

/// Result of [`join`].
pub(in crate::ops::batch_norm) enum Joining {
    /// The gradient of the activation's input; the sums are computed.
    Joined(Tensor),
    /// The gradient of the output, for the sums pass.
    Separate(Tensor),
}

/// Computes a gradient of the output that is not computed yet, with the mask's derivative and the sums of these norms, by one kernel if
/// that is faster.
pub(in crate::ops::batch_norm) fn join(
    grad: OutputGradient,
    mask: Option<&Tensor>,
    norms: &[(&Tensor, &Channels)],
    sums: &[&Sums],
) -> Result<Joining> {
    let (OutputGradient::Joined(term, skip), Some(mask)) = (&grad, mask) else {
        return Ok(Joining::Separate(grad.compute()?));
    };
    let mut operands = vec![("grad", &term.dy), ("weight", &term.weight), ("mask", mask)];
    operands.extend(norms.iter().flat_map(|(x, channels)| [("x", *x), ("channels", &channels.saved)]));
    operands.extend(skip.as_ref().map(|skip| ("skip", skip)));
    let joined = launch(OP, &operands, |gpu, of| {
        let (dy, weight, mask) = (of[0], of[1], of[2]);
        let inputs: Vec<_> = of[3..][..2 * norms.len()].chunks_exact(2).map(|of| (of[0], of[1])).collect();
        let skip_slice = skip.as_ref().map(|_| of[of.len() - 1]);
        let (shape, norms) = (term.shape(), &inputs[..]);
        let fused = PointwiseDataGradient { gpu, shape, dy, weight, skip: skip_slice, mask, norms };
        if !fused.is_preferred()? {
            return Ok(None);
        }
        let d = match skip {
            Some(skip) if skip.is_sole_owner() => skip.clone(),
            _ => uninitialized(gpu, &[shape.n, shape.h, shape.w, shape.c_in], dy.dtype)?,
        };
        let of_d = d.device_view();
        match sums {
            [one] => one.with_slices(|one| fused.compute(of_d.slice(), &[one])),
            [first, second] => first.with_slices(|first| {
                second.with_slices(|second| fused.compute(of_d.slice(), &[first, second]))
            }),
            _ => unreachable!("one norm or two"),
        }?;
        drop(of_d);
        Ok(Some(d))
    })?;
    match joined {
        Some(d) => Ok(Joining::Joined(d)),
        None => Ok(Joining::Separate(grad.compute()?)),
    }
}
