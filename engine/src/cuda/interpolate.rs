//! Resampling of images along both axes (`kernels/cu/interpolate.cu`), by the same tables of weights as on the CPU.
use super::channels::pixel_grid;
use super::{Arg, DeviceBuffer, DeviceSlice, Gpu, Result, args};
use crate::DType;
use crate::resampling::Resampling;
use std::sync::Arc;

/// `y[n, i, j, c] = sum over k, l of vertical[i, k] * horizontal[j, l] * x[n, k, l, c]`
pub(crate) fn resample(
    gpu: &Arc<Gpu>,
    vertical: &Resampling,
    horizontal: &Resampling,
    c: usize,
    x: DeviceSlice,
    y: DeviceSlice,
) -> Result<()> {
    let (up, across) = (Table::new(gpu, vertical)?, Table::new(gpu, horizontal)?);
    let size = [vertical.rows().len(), horizontal.rows().len()];
    let rows = y.len / size[1] / c;
    // `struct Resampling` of the kernels.
    let geometry = [c, vertical.inputs(), horizontal.inputs(), size[0], size[1], up.stride, across.stride]
        .map(|v| v as i32);
    let args = args![x, y, rows, up.slice(), across.slice(), Arg::of(&geometry)];
    gpu.launch(
        "interpolate",
        &format!("interpolate_{}", x.dtype),
        pixel_grid(rows, size[1], c, x.dtype),
        args,
    )
}

/// One axis on the device: of each output the first input and the number of inputs, as the bits of integers, and their weights.
struct Table {
    buffer: DeviceBuffer,
    stride: usize,
}

impl Table {
    fn new(gpu: &Arc<Gpu>, axis: &Resampling) -> Result<Table> {
        let stride = 2 + axis.rows().iter().map(|band| band.weights.len()).max().unwrap_or(0);
        let mut table = vec![0u32; axis.rows().len() * stride];
        for (row, band) in table.chunks_exact_mut(stride).zip(axis.rows()) {
            (row[0], row[1]) = (band.start as u32, band.weights.len() as u32);
            for (to, weight) in row[2..].iter_mut().zip(&band.weights) {
                *to = (*weight as f32).to_bits();
            }
        }
        let buffer = gpu.empty(table.len(), DType::F32)?;
        gpu.upload(bytemuck::cast_slice(&table), buffer.as_slice(DType::F32))?;
        Ok(Table { buffer, stride })
    }

    fn slice(&self) -> DeviceSlice<'_> {
        self.buffer.as_slice(DType::F32)
    }
}
