//! Group norm of images (`kernels/cu/group_norm.cu`).
use super::channels::{Chunks, THREADS, merge_grid};
use super::row_norm::is_wide;
use super::{Arg, DeviceSlice, Gpu, Grid, Result, args};
use crate::DType;
use crate::cpu::group_norm::GroupNorm;
use std::sync::Arc;

/// `y = (x - mean) * inv * weight + bias`; `stats`, two floats for each group of an image, receives mean and inv. Weight and bias
/// are of x's dtype, or both f32.
pub(crate) fn forward(
    gpu: &Arc<Gpu>,
    norm: &GroupNorm,
    x: DeviceSlice,
    [weight, bias]: [DeviceSlice; 2],
    y: DeviceSlice,
    stats: DeviceSlice,
) -> Result<()> {
    let cut = Cut::new(norm, x);
    let partial = gpu.empty(cut.partial_len(), DType::F32)?;
    let partial = partial.as_slice(DType::F32);
    let geometry = cut.geometry();
    let kernel = format!("group_norm_statistics_{}", x.dtype);
    gpu.launch(FAMILY, &kernel, cut.grid(), args![x, partial, Arg::of(&geometry)])?;
    let args = args![partial, norm.eps as f32, stats, Arg::of(&geometry)];
    gpu.launch(FAMILY, "group_norm_finalize_f32", cut.by_group(), args)?;
    let args = args![x, weight, bias, stats, y, is_wide(Some(weight)), Arg::of(&geometry)];
    gpu.launch(FAMILY, &format!("group_norm_fwd_{}", x.dtype), cut.grid(), args)
}

/// The gradients of input, weight and bias, those that are asked for.
pub(crate) fn backward(
    gpu: &Arc<Gpu>,
    norm: &GroupNorm,
    [x, dy, weight, stats]: [DeviceSlice; 4],
    dx: Option<DeviceSlice>,
    [dweight, dbias]: [Option<DeviceSlice>; 2],
) -> Result<()> {
    let cut = Cut::new(norm, x);
    let partial = gpu.empty(cut.partial_len(), DType::F32)?;
    let partial = partial.as_slice(DType::F32);
    let geometry = cut.geometry();
    let args = args![x, dy, stats, partial, Arg::of(&geometry)];
    gpu.launch(FAMILY, &format!("group_norm_sums_bwd_{}", x.dtype), cut.grid(), args)?;
    if dweight.or(dbias).is_some() {
        let args = args![partial, stats, Arg::optional(dweight), Arg::optional(dbias), Arg::of(&geometry)];
        let kernel = format!("group_norm_parameters_bwd_{}", weight.dtype);
        gpu.launch(FAMILY, &kernel, merge_grid(norm.c), args)?;
    }
    let Some(dx) = dx else { return Ok(()) };
    let factors = gpu.empty(cut.images * norm.groups * 2, DType::F32)?;
    let factors = factors.as_slice(DType::F32);
    let kernel = format!("group_norm_input_bwd_{}", weight.dtype);
    gpu.launch(FAMILY, &kernel, cut.by_group(), args![partial, weight, stats, factors, Arg::of(&geometry)])?;
    let args = args![x, dy, weight, stats, factors, dx, is_wide(Some(weight)), Arg::of(&geometry)];
    gpu.launch(FAMILY, &format!("group_norm_bwd_{}", x.dtype), cut.grid(), args)
}

const FAMILY: &str = "group_norm";

/// Blocks that all images together are cut into, about.
const BLOCKS: usize = 1024;

/// A group norm's images, each cut into chunks of pixels.
struct Cut<'a> {
    norm: &'a GroupNorm,
    images: usize,
    chunks: Chunks,
}

impl Cut<'_> {
    fn new<'a>(norm: &'a GroupNorm, x: DeviceSlice) -> Cut<'a> {
        let images = x.len / norm.pixels / norm.c;
        let chunks = Chunks::cut(norm.pixels, norm.c, x.dtype, (BLOCKS / images).max(1));
        Cut { norm, images, chunks }
    }

    fn partial_len(&self) -> usize {
        self.images * self.chunks.count * 2 * self.norm.c
    }

    fn grid(&self) -> Grid {
        self.chunks.grid_by_image(self.images)
    }

    fn by_group(&self) -> Grid {
        Grid::line(self.images * self.norm.groups, THREADS)
    }

    /// `struct GroupNorm` of the kernels.
    fn geometry(&self) -> [i32; 6] {
        let GroupNorm { pixels, c, groups, .. } = *self.norm;
        [self.images, pixels, c, groups, self.chunks.count, self.chunks.rows].map(|v| v as i32)
    }
}
