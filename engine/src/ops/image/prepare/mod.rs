//! Batch augmentation of images in one pass: mixup (Zhang et al., 2018), CutMix (Yun et al., 2019), normalisation, and random erasing
//! (Zhong et al., 2020). The caller makes all random choices but the noise in erased boxes.
mod change;
mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Mismatch, Op, Spec, TensorInfo, compute};
use crate::{DType, Device, Error, Result, Tensor};
use change::CHANGE_HEADER_LEN;
pub use change::{EraseMode, ImageBox, ImageChange, ImagePreparation};
use std::sync::Arc;

const OP: &str = "prepare_images";

/// Shape of `changes`, for errors.
const CHANGES_SHAPE: &str = "changes must be [m, 7 + 4 boxes] with one row for each of the first m images; make them with ImageChange::rows";

/// Maximum number of erase boxes per image on a GPU.
const MAX_ERASE_BOXES: usize = 16;

impl Tensor {
    /// Converts u8 or f32 images `[n, h, w, c]` to a float dtype (f64 on the CPU only): mixes each with its partner, normalises it, and erases
    /// boxes, as encoded by [`ImageChange::rows`] in `changes` `[m, 7 + 4 boxes]`. With m rows, at most n, the result has the first m images;
    /// the others only serve as partners. Each value is read once, and once more where it is mixed into a partner. The result has no
    /// gradient. On a GPU images have up to four channels and 16 erase boxes, and a CUDA graph can capture the operation: `changes` is read
    /// on the device, and its partners are not checked.
    pub fn prepare_images(&self, changes: &Tensor, how: &ImagePreparation, dtype: DType) -> Result<Tensor> {
        let results = changes.dims().first().copied().unwrap_or_default();
        let size = match *self.dims() {
            [_, h, w, c] => [results, h, w, c],
            _ => [0; 4],
        };
        compute(&PrepareImages { how, size, dtype }, &[self, changes])
    }
}

/// Images of `size`, prepared.
struct PrepareImages<'a> {
    how: &'a ImagePreparation<'a>,
    size: [usize; 4],
    dtype: DType,
}

impl Op for PrepareImages<'_> {
    fn spec(&self) -> Spec {
        Spec::new(OP, &["x", "changes"]).dtypes_of_results()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let [images, changes] = x else { unreachable!("two operands") };
        let is_integer = changes.dtype() == DType::I64 && matches!(images.dtype(), DType::U8 | DType::F32);
        if !is_integer || !self.dtype.is_float() {
            return Err(Mismatch::DType("u8 or f32 images, i64 changes, and a float dtype for the result"));
        }
        let &[n, _, _, c] = images.dims() else { return Err("images must be [n, h, w, c]".into()) };
        let &[results, width] = changes.dims() else { return Err(CHANGES_SHAPE.into()) };
        if results > n || width < CHANGE_HEADER_LEN || !(width - CHANGE_HEADER_LEN).is_multiple_of(4) {
            return Err(CHANGES_SHAPE.into());
        }
        if self.how.mean.len() != c || self.how.std.len() != c {
            return Err(format!("mean and std must have {c} numbers, one per channel").into());
        }
        let is_too_large = c > 4 || width > CHANGE_HEADER_LEN + 4 * MAX_ERASE_BOXES;
        if images.device() != Device::Cpu && (self.dtype == DType::F64 || is_too_large) {
            let accepted =
                "every result dtype but f64, up to 4 channels and up to 16 erase boxes per image on a GPU";
            return Err(Mismatch::DType(accepted));
        }
        Ok(vec![TensorInfo::new(self.size, self.dtype)?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let (images, changes) = (call.tensor(0), call.x::<i64>(1)?);
        let (n, width) = (images.dims()[0], call.tensor(1).dims()[1]);
        if changes.chunks_exact(width).any(|row| !(0..n as i64).contains(&row[0])) {
            let why = format!("the partners in changes must be below {n}");
            return Err(Error::value(OP, &[("x", images), ("changes", call.tensor(1))], why));
        }
        crate::op::match_float!(self.dtype, T => match images.dtype() {
            DType::U8 => cpu::forward::<u8, T>(&call.x(0)?, &changes, self.size, self.how, &mut call.y(0)?),
            _ => cpu::forward::<f32, T>(&call.x(0)?, &changes, self.size, self.how, &mut call.y(0)?),
        });
        Ok(())
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::forward(gpu, x[0], x[1], self.size, self.how, y[0])
    }
}
