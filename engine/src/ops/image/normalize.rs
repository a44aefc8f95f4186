//! Normalisation of u8 images.
use super::cuda;
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, compute};
use crate::{DType, Device, Element, Error, Result, Tensor};
use std::sync::Arc;

impl Tensor {
    /// `(x / white - mean) / std` by channel for u8 images `[…, c]`: `white` is the value of full intensity (255), mean and std have one
    /// number per channel. The result has the given float dtype (f64 on the CPU only) and no gradient.
    /// With up to four channels a CUDA graph can capture it.
    pub fn normalize_bytes(&self, white: u8, mean: &[f32], std: &[f32], dtype: DType) -> Result<Tensor> {
        let operands = [("x", self)];
        if self.dtype() != DType::U8 || !dtype.is_float() {
            return Err(Error::dtype(
                "normalize_bytes",
                &operands,
                "u8 images and a float dtype for the result",
            ));
        }
        let channels = self.dims().last().copied().unwrap_or_default();
        if channels == 0 || mean.len() != channels || std.len() != channels {
            return Err(Error::shape(
                "normalize_bytes",
                &operands,
                format!("x must be [..., {}], as mean has so many numbers, and std as many", mean.len()),
            ));
        }
        if dtype == DType::F64 && self.device() != Device::Cpu {
            return Err(Error::dtype("normalize_bytes", &operands, "every result dtype but f64 on a GPU"));
        }
        compute(&NormalizeBytes { white: f32::from(white), mean, std, dtype }, &[self])
    }
}

/// Images of bytes as normalized floats.
struct NormalizeBytes<'a> {
    white: f32,
    mean: &'a [f32],
    std: &'a [f32],
    dtype: DType,
}

impl Op for NormalizeBytes<'_> {
    fn spec(&self) -> Spec {
        Spec::new("normalize_bytes", &["x"]).any_dtype()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::new(*x[0].shape(), self.dtype)?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        // A byte has 256 values: the results of each channel are tabulated.
        let channels = self.mean.len();
        let normalize = |c: usize, value: u8| (f32::from(value) / self.white - self.mean[c]) / self.std[c];
        let table: Vec<[f32; 256]> =
            (0..channels).map(|c| std::array::from_fn(|value| normalize(c, value as u8))).collect();
        let x = call.x::<u8>(0)?;
        crate::dtype::dispatch_any!(self.dtype, T => {
            for (y, x) in call.y::<T>(0)?.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                for ((y, x), table) in y.iter_mut().zip(x).zip(&table) {
                    *y = T::from_f64(f64::from(table[usize::from(*x)]));
                }
            }
        });
        Ok(())
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::normalize::forward(gpu, x[0], self.white, [self.mean, self.std], y[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u8_images_are_normalised_by_channel() {
        let x = Tensor::from_vec(vec![0u8, 255, 51, 102], [1, 2, 2]).expect("memory");
        let y = x.normalize_bytes(255, &[0.5, 0.2], &[0.5, 0.4], DType::F32).expect("two channels");
        let expected = [-1.0, 2.0, -0.6, 0.5];
        for (got, expected) in y.to_vec::<f32>().expect("f32").iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{got}, not {expected}");
        }
        assert_eq!(
            x.normalize_bytes(255, &[0.5; 2], &[0.5; 2], DType::F16).expect("floats").dtype(),
            DType::F16
        );
        assert!(matches!(x.normalize_bytes(255, &[0.5], &[0.5], DType::F32), Err(Error::Shape { .. })));
        assert!(matches!(y.normalize_bytes(255, &[0.5; 2], &[0.5; 2], DType::F32), Err(Error::DType { .. })));
    }
}
