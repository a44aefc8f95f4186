//! Depthwise convolution (`kernels/cu/conv/depthwise.cu`).
use crate::cuda::launch::channels::{THREADS, merge_grid};
use crate::cuda::launch::{grid_extent, to_i32, to_i32s};
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args, int};
use crate::{ConvShape, DType};
use fornax_kernels::arguments::Depthwise;
use std::sync::Arc;

/// True if these kernels support a convolution: it is depthwise, and its weights fit into shared memory.
pub(crate) fn supports(s: &ConvShape, dtype: DType) -> bool {
    let pixels = s.n * (s.h * s.w).max(s.out_h() * s.out_w());
    s.is_depthwise() && lanes(s, dtype).is_some() && pixels < i32::MAX as usize
}

/// Convolution, plus an optional bias `[c_out]`.
pub(crate) fn forward(
    gpu: &Gpu,
    s: &ConvShape,
    x: DeviceSlice,
    weight: DeviceSlice,
    bias: Option<DeviceSlice>,
    y: DeviceSlice,
) -> Result<()> {
    let layout = BlockLayout::new(s, s.c_out, x.dtype);
    let (kind, items) = match specialization(s) {
        Some(kind) => (kind, s.n * s.out_h() * s.out_w().div_ceil(STRIP)),
        None => ("generic", s.n * s.out_h() * s.out_w()),
    };
    let shape = geometry(s, layout.lanes, KernelOrientation::Normal)?;
    let args = args![x, weight, KernelArg::optional(bias), y, &shape];
    gpu.launch(Kernel::joined(MODULE, ["depthwise_", kind, "_fwd"]).of(x.dtype), layout.grid(items), args)
}

/// Gradient of the input.
pub(crate) fn data_gradient(
    gpu: &Gpu,
    s: &ConvShape,
    dy: DeviceSlice,
    weight: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    let layout = BlockLayout::new(s, s.c_in, dy.dtype);
    if let Some(kind) = specialization(s).filter(|_| s.stride == [1, 1]) {
        let shape = geometry(s, layout.lanes, KernelOrientation::Flipped)?;
        let args = args![dy, weight, KernelArg::optional(None), dx, &shape];
        let grid = layout.grid(s.n * s.h * s.w.div_ceil(STRIP));
        return gpu.launch(Kernel::joined(MODULE, ["depthwise_", kind, "_fwd"]).of(dy.dtype), grid, args);
    }
    let shape = geometry(s, layout.lanes, KernelOrientation::Normal)?;
    let args = args![dy, weight, dx, &shape];
    let kernel = Kernel::new(MODULE, "depthwise_generic_data_bwd").of(dy.dtype);
    gpu.launch(kernel, layout.grid(s.n * s.h * s.w), args)
}

/// Gradient of the weight.
pub(crate) fn weight_gradient(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    x: DeviceSlice,
    dy: DeviceSlice,
    dw: DeviceSlice,
) -> Result<()> {
    let layout = BlockLayout::new(s, s.c_out, x.dtype);
    let taps = s.kernel[0] * s.kernel[1];
    // Each row of the kernel (specialized kernels) or tap (generic ones) has blocks that cover all pixels. For a 3x3 kernel each thread
    // accumulates all taps.
    let (kind, parts, strip) = match specialization(s) {
        Some(kind) if s.kernel[0] == 3 => (kind, 1, 2),
        Some(kind) => (kind, s.kernel[0], STRIP),
        None => ("generic", taps, 1),
    };
    let items = s.n * s.out_h() * s.out_w().div_ceil(strip);
    let chunk = layout.chunk(items, parts);
    let chunks = items.div_ceil(chunk);
    let partial = gpu.empty(chunks * taps * s.c_out, DType::F32)?;
    let partial = partial.as_slice(DType::F32);
    let mut grid = LaunchConfig::linear(chunks, THREADS);
    grid.grid_dim = [chunks, layout.tiles, parts].map(grid_extent);
    let shape = geometry(s, layout.lanes, KernelOrientation::Normal)?;
    let args = args![x, dy, partial, int(chunk), &shape];
    gpu.launch(Kernel::joined(MODULE, ["depthwise_", kind, "_weight_bwd"]).of(x.dtype), grid, args)?;
    let args = args![partial, int(chunks), int(taps), int(s.c_out), dw];
    let kernel = Kernel::new(MODULE, "depthwise_finalize_bwd").of(dw.dtype);
    gpu.launch(kernel, merge_grid(taps * s.c_out), args)
}

const MODULE: &str = "depthwise";

/// Output pixels per strip.
const STRIP: usize = 4;

/// Maximum bytes of weights in shared memory per block.
const MAX_SHARED_BYTES: usize = 48 << 10;

/// Name part of the specialized kernels for square kernels at a square stride; `None` if there are none.
fn specialization(s: &ConvShape) -> Option<&'static str> {
    let square = s.kernel[0] == s.kernel[1] && s.stride[0] == s.stride[1];
    let plain = s.dilation == [1, 1] && s.c_in == s.c_out;
    match (s.kernel[0], s.stride[0]) {
        _ if !square || !plain => None,
        (3, 1) => Some("k3s1"),
        (3, 2) => Some("k3s2"),
        (5, 1) => Some("k5s1"),
        (5, 2) => Some("k5s2"),
        (7, 1) => Some("k7s1"),
        _ => None,
    }
}

/// Packs of channels per block: at most 16, and as many as fit into shared memory; `None` if not even one does.
fn lanes(s: &ConvShape, dtype: DType) -> Option<usize> {
    let pack = 16 / dtype.size();
    let widest = s.c_in.div_ceil(pack).next_power_of_two().min(16);
    let bytes = |lanes: &usize| lanes * shared_bytes_per_lane(s, dtype);
    [16, 8, 4, 2, 1]
        .into_iter()
        .filter(|lanes| *lanes <= widest)
        .find(|lanes| bytes(lanes) <= MAX_SHARED_BYTES)
}

/// Bytes of the weights of one pack: all output channels of its input channels.
fn shared_bytes_per_lane(s: &ConvShape, dtype: DType) -> usize {
    s.kernel[0] * s.kernel[1] * (16 / dtype.size()) * s.group_out() * size_of::<f32>()
}

/// Division of channels and pixels into blocks.
struct BlockLayout {
    lanes: usize,
    tiles: usize,
    shared: usize,
}

impl BlockLayout {
    /// Layout over `c` channels of a supported convolution.
    fn new(s: &ConvShape, c: usize, dtype: DType) -> BlockLayout {
        let lanes = lanes(s, dtype).unwrap_or(1);
        let tiles = c.div_ceil(lanes * 16 / dtype.size());
        BlockLayout { lanes, tiles, shared: lanes * shared_bytes_per_lane(s, dtype) }
    }

    /// Launch configuration for a number of strips or pixels. Each block loads the weights of its channels, so it gets several items.
    fn grid(&self, items: usize) -> LaunchConfig {
        let rows = THREADS / self.lanes;
        let mut grid =
            LaunchConfig::linear(items.div_ceil(4 * rows).clamp(1, (4096 / self.tiles).max(64)), THREADS);
        grid.grid_dim[1] = grid_extent(self.tiles);
        grid.shared_mem_bytes = self.shared as u32;
        grid
    }

    /// Strips or pixels per chunk of a sum, for kernels with `parts` blocks per chunk and tile.
    fn chunk(&self, items: usize, parts: usize) -> usize {
        let chunks = (512 / self.tiles / parts).max(8);
        items.div_ceil(chunks).max(4 * THREADS / self.lanes)
    }
}

/// Orientation of the convolution kernel: normal, or flipped, as the data gradient at stride 1 needs it.
enum KernelOrientation {
    Normal,
    Flipped,
}

fn geometry(s: &ConvShape, lanes: usize, orientation: KernelOrientation) -> Result<Depthwise> {
    let (input, output) = (to_i32s([s.h, s.w])?, to_i32s([s.out_h(), s.out_w()])?);
    let (kernel, padding) = (to_i32s(s.kernel)?, to_i32s(s.padding)?);
    let (input, output, padding, flipped) = match orientation {
        KernelOrientation::Normal => (input, output, padding, 0),
        KernelOrientation::Flipped => (output, input, [0, 1].map(|a| kernel[a] - 1 - padding[a]), 1),
    };
    Ok(Depthwise {
        n: to_i32(s.n)?,
        input,
        output,
        c_in: to_i32(s.c_in)?,
        c_out: to_i32(s.c_out)?,
        kernel,
        stride: to_i32s(s.stride)?,
        padding,
        dilation: to_i32s(s.dilation)?,
        lanes: to_i32(lanes)?,
        flipped,
    })
}
