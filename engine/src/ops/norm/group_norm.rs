//! Group normalisation (Wu and He, 2018).
use super::cpu::GroupNorm;
use super::{NormStatistics, Normalised, cuda, to_compute_dtype};
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{self, CpuCall, Infos, Op, Spec, TensorInfo, apply, check_parameters, for_real};
use crate::{DType, Device, Element, Error, Result, Tensor};
use std::sync::Arc;

impl Tensor {
    /// Group normalisation of images `[n, …, c]`: `(x - mean) / sqrt(var + eps) * weight + bias` with mean and biased variance over the
    /// pixels and channels of each of `groups` groups; weight and bias `[c]`. f32, f16, bf16; f64 on the CPU. Parameters have the dtype of
    /// x, or are f32 if it is f16 or bf16.
    pub fn group_norm(&self, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
        let c = self.dims().last().copied().unwrap_or_default();
        let fits = self.rank() >= 2 && self.numel() > 0 && weight.dims() == [c] && bias.dims() == [c];
        if !fits || groups == 0 || c % groups != 0 {
            return Err(Error::shape(
                NAME,
                &[("x", self), ("weight", weight), ("bias", bias)],
                format!("x must be [n, ..., c], weight and bias [c], and c divisible by {groups} groups"),
            ));
        }
        let images = self.dims()[0];
        let norm = GroupNorm { pixels: self.numel() / images / c, c, groups, eps };
        apply(GroupNormOp { images, norm }, &[self, weight, bias])
    }
}

const NAME: &str = "group_norm";

/// The normalized images, and mean and inverse standard deviation of each group.
struct GroupNormOp {
    images: usize,
    norm: GroupNorm,
}

impl Op for GroupNormOp {
    fn spec(&self) -> Spec {
        Spec::new(NAME, &["x", "weight", "bias"]).mixed_dtypes()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        check_parameters(x[0], &x[1..])?;
        // The CPU merges in f64.
        let dtype = if x[0].device() == Device::Cpu { DType::F64 } else { DType::F32 };
        Ok(vec![TensorInfo::of(x[0]), TensorInfo::new([self.images, self.norm.groups, 2], dtype)?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_real!(call, T => {
            let (x, weight, bias) = (call.x::<T>(0)?, call.x::<T>(1)?, call.x::<T>(2)?);
            self.norm.forward(&x, &weight, &bias, &mut call.y::<T>(0)?, &mut call.y::<f64>(1)?);
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::group_norm::forward(gpu, &self.norm, x[0], [x[1], x[2]], y[0], y[1])
    }
}

impl Derivative for GroupNormOp {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[0, 1]).and_results(&[1])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        let (x, weight) = (saved.operand(0), saved.operand(1));
        let grad =
            GroupNormGrad { images: self.images, norm: self.norm, needs: [needs[0], needs[1], needs[2]] };
        let operands = [x, &dy, weight, saved.result(1)];
        op::gradients(&grad, &operands, needs, || composed(&self.norm, x, weight, &dy, needs))
    }
}

/// The gradients of [`GroupNormOp`] that are needed.
struct GroupNormGrad {
    images: usize,
    norm: GroupNorm,
    needs: [bool; 3],
}

impl Op for GroupNormGrad {
    fn spec(&self) -> Spec {
        Spec::new(NAME, &["x", "grad", "weight", "statistics"]).mixed_dtypes()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let all = [x[0], x[2], x[2]].into_iter().zip(self.needs);
        Ok(all.filter(|(_, needed)| *needed).map(|(like, _)| TensorInfo::of(like)).collect())
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let c = self.norm.c;
        for_real!(call, T => {
            let (x, dy, weight, stats) = (call.x::<T>(0)?, call.x::<T>(1)?, call.x::<T>(2)?, call.x::<f64>(3)?);
            let mut partial = vec![0.0; self.images * 2 * c];
            let mut unneeded = vec![];
            if self.needs[0] {
                self.norm.backward(&x, &dy, &weight, &stats, &mut call.y::<T>(0)?, &mut partial);
            } else {
                unneeded.resize(x.len(), <T as Element>::from_f64(0.0));
                self.norm.backward(&x, &dy, &weight, &stats, &mut unneeded, &mut partial);
            }
            let parameters = (0..2).filter(|part| self.needs[1 + part]);
            for (result, part) in (usize::from(self.needs[0])..).zip(parameters) {
                let total = |j: usize| partial.iter().skip(part * c + j).step_by(2 * c).sum::<f64>();
                for (j, sum) in call.y::<T>(result)?.iter_mut().enumerate() {
                    *sum = <T as Element>::from_f64(total(j));
                }
            }
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        let mut results = y.iter().copied();
        let [dx, dweight, dbias] = self.needs.map(|needed| if needed { results.next() } else { None });
        cuda::group_norm::backward(gpu, &self.norm, [x[0], x[1], x[2], x[3]], dx, [dweight, dbias])
    }
}

/// The gradients as operations.
fn composed(norm: &GroupNorm, x: &Tensor, weight: &Tensor, dy: &Tensor, needs: &[bool]) -> Result<Gradients> {
    let GroupNorm { pixels, c, groups, eps } = *norm;
    let grouped = [x.dims()[0], pixels, groups, c / groups];
    let by = NormStatistics::MeanVariance;
    let normalised = Normalised::by_input_statistics(&x.reshape(grouped)?, &[1, 3], by, eps)?;
    let d = to_compute_dtype(dy)?.reshape(grouped)?;
    let by_channel = |t: &Tensor| t.reshape([groups, c / groups]);
    let total = |t: Tensor| t.sum(&[0, 1], false)?.reshape([c])?.to_dtype(weight.dtype());
    let of_x = || {
        let d = d.mul(&by_channel(&to_compute_dtype(weight)?)?)?;
        normalised.input_gradient(&d)?.reshape(*x.shape())?.to_dtype(x.dtype())
    };
    Ok(vec![
        needs[0].then(of_x).transpose()?,
        needs[1].then(|| total(d.mul(&normalised.value)?)).transpose()?,
        needs[2].then(|| total(d.clone())).transpose()?,
    ])
}
