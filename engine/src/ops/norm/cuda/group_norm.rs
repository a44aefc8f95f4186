//! Group norm (`kernels/cu/norm/group_norm.cu`).
use super::row_norm::is_f32;
use crate::DType;
use crate::cuda::launch::channels::{Chunks, THREADS, merge_grid};
use crate::cuda::launch::to_i32;
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args};
use crate::ops::norm::cpu::GroupNorm;
use fornax_kernels::arguments;
use std::sync::Arc;

/// `y = (x - mean) * inv * weight + bias`; `stats`, two f32 per image and group, receives mean and inv. Weight and bias have x's dtype,
/// or are both f32.
pub(crate) fn forward(
    gpu: &Arc<Gpu>,
    norm: &GroupNorm,
    x: DeviceSlice,
    [weight, bias]: [DeviceSlice; 2],
    y: DeviceSlice,
    stats: DeviceSlice,
) -> Result<()> {
    let chunks = ImageChunks::new(norm, x);
    let partial = gpu.empty(chunks.partial_len(), DType::F32)?;
    let partial = partial.as_slice(DType::F32);
    let geometry = chunks.geometry()?;
    let kernel = Kernel::new(MODULE, "group_norm_statistics").of(x.dtype);
    gpu.launch(kernel, chunks.grid(), args![x, partial, &geometry])?;
    let args = args![partial, norm.eps as f32, stats, &geometry];
    gpu.launch(Kernel::new(MODULE, "group_norm_finalize_f32"), chunks.group_grid(), args)?;
    let args = args![x, weight, bias, stats, y, is_f32(Some(weight)), &geometry];
    gpu.launch(Kernel::new(MODULE, "group_norm_fwd").of(x.dtype), chunks.grid(), args)
}

/// Gradients of input, weight and bias; `None` where not needed.
pub(crate) fn backward(
    gpu: &Arc<Gpu>,
    norm: &GroupNorm,
    [x, dy, weight, stats]: [DeviceSlice; 4],
    dx: Option<DeviceSlice>,
    [dweight, dbias]: [Option<DeviceSlice>; 2],
) -> Result<()> {
    let chunks = ImageChunks::new(norm, x);
    let partial = gpu.empty(chunks.partial_len(), DType::F32)?;
    let partial = partial.as_slice(DType::F32);
    let geometry = chunks.geometry()?;
    let args = args![x, dy, stats, partial, &geometry];
    gpu.launch(Kernel::new(MODULE, "group_norm_sums_bwd").of(x.dtype), chunks.grid(), args)?;
    if dweight.or(dbias).is_some() {
        let args = args![partial, stats, KernelArg::optional(dweight), KernelArg::optional(dbias), &geometry];
        let kernel = Kernel::new(MODULE, "group_norm_parameters_bwd").of(weight.dtype);
        gpu.launch(kernel, merge_grid(norm.c), args)?;
    }
    let Some(dx) = dx else { return Ok(()) };
    let factors = gpu.empty(chunks.images * norm.groups * 2, DType::F32)?;
    let factors = factors.as_slice(DType::F32);
    let kernel = Kernel::new(MODULE, "group_norm_input_bwd").of(weight.dtype);
    gpu.launch(kernel, chunks.group_grid(), args![partial, weight, stats, factors, &geometry])?;
    let args = args![x, dy, weight, stats, factors, dx, is_f32(Some(weight)), &geometry];
    gpu.launch(Kernel::new(MODULE, "group_norm_bwd").of(x.dtype), chunks.grid(), args)
}

const MODULE: &str = "group_norm";

/// Approximate number of blocks for all images together.
const TARGET_BLOCKS: usize = 1024;

/// Division of a group norm's images into chunks of pixels.
struct ImageChunks<'a> {
    norm: &'a GroupNorm,
    images: usize,
    chunks: Chunks,
}

impl ImageChunks<'_> {
    fn new<'a>(norm: &'a GroupNorm, x: DeviceSlice) -> ImageChunks<'a> {
        let images = x.len / norm.pixels / norm.c;
        let chunks = Chunks::new(norm.pixels, norm.c, x.dtype, (TARGET_BLOCKS / images).max(1));
        ImageChunks { norm, images, chunks }
    }

    fn partial_len(&self) -> usize {
        self.images * self.chunks.count * 2 * self.norm.c
    }

    fn grid(&self) -> LaunchConfig {
        self.chunks.image_grid(self.images)
    }

    fn group_grid(&self) -> LaunchConfig {
        LaunchConfig::linear(self.images * self.norm.groups, THREADS)
    }

    fn geometry(&self) -> Result<arguments::GroupNorm> {
        Ok(arguments::GroupNorm {
            images: to_i32(self.images)?,
            pixels: to_i32(self.norm.pixels)?,
            c: to_i32(self.norm.c)?,
            groups: to_i32(self.norm.groups)?,
            chunks: to_i32(self.chunks.count)?,
            chunk_pixels: to_i32(self.chunks.rows)?,
        })
    }
}
