//! Normalisation of u8 images.
use super::gpu::OnGpu;
use crate::{DType, Element, Error, Result, Tensor, cuda};

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
        if let Some(on) = OnGpu::of_any("normalize_bytes", &operands)? {
            if dtype == DType::F64 {
                return Err(Error::dtype(
                    "normalize_bytes",
                    &operands,
                    "every result dtype but f64 on a GPU",
                ));
            }
            return on.build(*self.shape(), dtype, |y| {
                cuda::normalize::forward(
                    &on.gpu,
                    self.device_view().slice(),
                    f32::from(white),
                    [mean, std],
                    y,
                )
            });
        }
        // A byte has 256 values: the results of each channel are tabulated.
        let normalize = |c: usize, value: u8| (f32::from(value) / f32::from(white) - mean[c]) / std[c];
        let table: Vec<[f32; 256]> =
            (0..channels).map(|c| std::array::from_fn(|value| normalize(c, value as u8))).collect();
        let x = self.read::<u8>()?;
        dispatch_any!(dtype, T => Tensor::build(*self.shape(), |y: &mut [T]| {
            for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                for ((y, x), table) in y.iter_mut().zip(x).zip(&table) {
                    *y = T::from_f64(f64::from(table[usize::from(*x)]));
                }
            }
        }))
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
