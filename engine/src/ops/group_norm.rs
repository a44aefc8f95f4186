//! Group normalisation (Wu and He, 2018).
use super::gpu::{OnGpu, check_parameters};
use super::normalised::{NormStatistics, Normalised, to_compute_dtype};
use crate::cpu::group_norm::GroupNorm;
use crate::{DType, Element, Error, Result, Tensor, cuda};

impl Tensor {
    /// Group normalisation of images `[n, …, c]`: `(x - mean) / sqrt(var + eps) * weight + bias` with mean and biased variance over the
    /// pixels and channels of each of `groups` groups; weight and bias `[c]`. f32, f16, bf16; f64 on the CPU. Parameters have the dtype of
    /// x, or are f32 if it is f16 or bf16.
    pub fn group_norm(&self, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
        let operands = [("x", self), ("weight", weight), ("bias", bias)];
        check_parameters("group_norm", &operands, &operands[1..])?;
        let c = self.dims().last().copied().unwrap_or_default();
        let fits = self.rank() >= 2 && self.numel() > 0 && weight.dims() == [c] && bias.dims() == [c];
        if !fits || groups == 0 || c % groups != 0 {
            return Err(Error::shape(
                "group_norm",
                &operands,
                format!("x must be [n, ..., c], weight and bias [c], and c divisible by {groups} groups"),
            ));
        }
        let images = self.dims()[0];
        let norm = GroupNorm { pixels: self.numel() / images / c, c, groups, eps };
        if let Some(on) = OnGpu::of("group_norm", &operands)? {
            return self.group_norm_gpu(&on, norm, weight, bias);
        }
        if self.is_half_on_cpu() {
            let (weight, bias) = (weight.widened()?, bias.widened()?);
            return self.widened()?.group_norm(groups, &weight, &bias, eps)?.rounded_as(self);
        }
        dispatch_real!("group_norm", [("x", self)], T => {
            let mut stats = vec![0.0; images * groups * 2];
            let y = {
                let (x, w, b) = (self.read::<T>()?, weight.read::<T>()?, bias.read::<T>()?);
                Tensor::build(*self.shape(), |y: &mut [T]| norm.forward(&x, &w, &b, y, &mut stats))?
            };
            let kernels = || {
                let (x, weight) = (self.detach(), weight.detach());
                move |grad: Tensor, needs: &[bool]| {
                    let mut partial = vec![0.0; images * 2 * c];
                    let dx = {
                        let (x, dy, w) = (x.read::<T>()?, grad.read::<T>()?, weight.read::<T>()?);
                        Tensor::build(*grad.shape(), |dx: &mut [T]| norm.backward(&x, &dy, &w, &stats, dx, &mut partial))?
                    };
                    let sum = |part: usize| {
                        let total = |j: usize| partial.iter().skip(part * c + j).step_by(2 * c).sum::<f64>();
                        Tensor::from_vec((0..c).map(|j| <T as Element>::from_f64(total(j))).collect(), [c])
                    };
                    Ok(vec![
                        needs[0].then_some(dx),
                        needs[1].then(|| sum(0)).transpose()?,
                        needs[2].then(|| sum(1)).transpose()?,
                    ])
                }
            };
            let inputs = operands.map(|(_, t)| t);
            Ok(y.with_fused_backward("group_norm", &inputs, kernels, || composition(norm, self, weight)))
        })
    }

    fn group_norm_gpu(&self, on: &OnGpu, norm: GroupNorm, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        const OP: &str = "group_norm";
        let stats = on.empty([self.dims()[0], norm.groups, 2], DType::F32)?;
        let y = on.build(*self.shape(), self.dtype(), |y| {
            let views = [self, weight, bias, &stats].map(Tensor::device_view);
            let [x, weight, bias, stats] = views.each_ref().map(|t| t.slice());
            cuda::group_norm::forward(&on.gpu, &norm, x, [weight, bias], y, stats)
        })?;
        let kernels = || {
            let (x, weight) = (self.detach(), weight.detach());
            move |grad: Tensor, needs: &[bool]| {
                let operands = [("x", &x), ("grad", &grad)];
                let on = OnGpu::for_backward(OP, &operands)?;
                let empty = |i: usize, like: &Tensor| {
                    needs[i].then(|| on.empty(*like.shape(), like.dtype())).transpose()
                };
                let grads = [empty(0, &x)?, empty(1, &weight)?, empty(2, &weight)?];
                let views = grads.each_ref().map(|t| t.as_ref().map(Tensor::device_view));
                let [dx, dweight, dbias] = views.each_ref().map(|t| t.as_ref().map(|t| t.slice()));
                let of = [&x, &grad, &weight, &stats].map(Tensor::device_view);
                let operands = of.each_ref().map(|t| t.slice());
                on.with_op_context(cuda::group_norm::backward(
                    &on.gpu,
                    &norm,
                    operands,
                    dx,
                    [dweight, dbias],
                ))?;
                drop(views);
                Ok(grads.into_iter().collect())
            }
        };
        Ok(y.with_fused_backward(OP, &[self, weight, bias], kernels, || composition(norm, self, weight)))
    }
}

/// The backward pass as operations.
fn composition(
    norm: GroupNorm,
    x: &Tensor,
    weight: &Tensor,
) -> impl Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + use<> {
    let (x, weight) = (x.clone(), weight.clone());
    move |grad: Tensor, needs: &[bool]| {
        let GroupNorm { pixels, c, groups, eps } = norm;
        let grouped = [x.dims()[0], pixels, groups, c / groups];
        let normalised = Normalised::by_input_statistics(
            &x.reshape(grouped)?,
            &[1, 3],
            NormStatistics::MeanVariance,
            eps,
        )?;
        let d = to_compute_dtype(&grad)?.reshape(grouped)?;
        let by_channel = |t: &Tensor| t.reshape([groups, c / groups]);
        let total = |t: Tensor| t.sum(&[0, 1], false)?.reshape([c])?.to_dtype(weight.dtype());
        let of_x = || {
            let d = d.mul(&by_channel(&to_compute_dtype(&weight)?)?)?;
            normalised.input_gradient(&d)?.reshape(*x.shape())?.to_dtype(x.dtype())
        };
        Ok(vec![
            needs[0].then(of_x).transpose()?,
            needs[1].then(|| total(d.mul(&normalised.value)?)).transpose()?,
            needs[2].then(|| total(d.clone())).transpose()?,
        ])
    }
}
