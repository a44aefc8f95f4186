//! Separable resampling of images (`kernels/cu/image/interpolate.cu`), with the same weight tables as on the CPU.
use crate::DType;
use crate::cuda::launch::channels::pixel_grid;
use crate::cuda::launch::{to_i32, to_i32s};
use crate::cuda::{DeviceBuffer, DeviceSlice, Gpu, Kernel, Result, args};
use crate::resampling::Resampling;
use fornax_kernels::arguments;
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
    let (rows_table, columns_table) =
        (ResamplingTable::new(gpu, vertical)?, ResamplingTable::new(gpu, horizontal)?);
    let size = [vertical.rows().len(), horizontal.rows().len()];
    let rows = y.len / size[1] / c;
    let sizes = arguments::Resampling {
        c: to_i32(c)?,
        inputs: to_i32s([vertical.inputs(), horizontal.inputs()])?,
        outputs: to_i32s(size)?,
        stride: to_i32s([rows_table.stride, columns_table.stride])?,
    };
    let args = args![x, y, rows, rows_table.slice(), columns_table.slice(), &sizes];
    gpu.launch(
        Kernel::new("interpolate", "interpolate").of(x.dtype),
        pixel_grid(rows, size[1], c, x.dtype),
        args,
    )
}

/// Weight table of one axis on the device: per output the first input and the number of inputs, as integer bits, then the weights.
struct ResamplingTable {
    buffer: Arc<DeviceBuffer>,
    stride: usize,
}

impl ResamplingTable {
    fn new(gpu: &Arc<Gpu>, axis: &Resampling) -> Result<ResamplingTable> {
        let stride = 2 + axis.rows().iter().map(|band| band.weights.len()).max().unwrap_or(0);
        let mut table = vec![0u32; axis.rows().len() * stride];
        for (row, band) in table.chunks_exact_mut(stride).zip(axis.rows()) {
            (row[0], row[1]) = (band.start as u32, band.weights.len() as u32);
            for (to, weight) in row[2..].iter_mut().zip(&band.weights) {
                *to = (*weight as f32).to_bits();
            }
        }
        Ok(ResamplingTable { buffer: gpu.constant_table(&table)?, stride })
    }

    fn slice(&self) -> DeviceSlice<'_> {
        self.buffer.as_slice(DType::F32)
    }
}
