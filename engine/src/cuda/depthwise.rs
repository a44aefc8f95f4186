//! Depthwise convolution (`kernels/cu/depthwise.cu`).
use super::channels::{THREADS, merge_grid};
use super::{Arg, DeviceSlice, Gpu, Grid, Result, args};
use crate::{ConvShape, DType};
use std::sync::Arc;

/// True for the convolutions that these kernels take: depthwise, with weights that fit into shared memory.
pub(crate) fn suits(s: &ConvShape, dtype: DType) -> bool {
    let pixels = s.n * (s.h * s.w).max(s.out_h() * s.out_w());
    s.is_depthwise() && lanes(s, dtype).is_some() && pixels < i32::MAX as usize
}

/// The convolution, with a bias `[c_out]` if there is one.
pub(crate) fn forward(
    gpu: &Gpu,
    s: &ConvShape,
    x: DeviceSlice,
    weight: DeviceSlice,
    bias: Option<DeviceSlice>,
    y: DeviceSlice,
) -> Result<()> {
    let cut = Cut::new(s, s.c_out, x.dtype);
    let (kind, items) = match usual(s) {
        Some(kind) => (kind, s.n * s.out_h() * s.out_w().div_ceil(STRIP)),
        None => ("any".to_string(), s.n * s.out_h() * s.out_w()),
    };
    let shape = geometry(s, cut.lanes, Turn::Forward);
    let args = args![x, weight, Arg::optional(bias), y, Arg::of(&shape)];
    gpu.launch(FAMILY, &format!("depthwise_{kind}_fwd_{}", x.dtype), cut.grid(items), args)
}

/// The gradient of the input.
pub(crate) fn data_gradient(
    gpu: &Gpu,
    s: &ConvShape,
    dy: DeviceSlice,
    weight: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    let cut = Cut::new(s, s.c_in, dy.dtype);
    if let Some(kind) = usual(s).filter(|_| s.stride == [1, 1]) {
        let shape = geometry(s, cut.lanes, Turn::Backward);
        let args = args![dy, weight, Arg::optional(None), dx, Arg::of(&shape)];
        let grid = cut.grid(s.n * s.h * s.w.div_ceil(STRIP));
        return gpu.launch(FAMILY, &format!("depthwise_{kind}_fwd_{}", dy.dtype), grid, args);
    }
    let shape = geometry(s, cut.lanes, Turn::Forward);
    let args = args![dy, weight, dx, Arg::of(&shape)];
    let kernel = format!("depthwise_any_data_bwd_{}", dy.dtype);
    gpu.launch(FAMILY, &kernel, cut.grid(s.n * s.h * s.w), args)
}

/// The gradient of the weight.
pub(crate) fn weight_gradient(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    x: DeviceSlice,
    dy: DeviceSlice,
    dw: DeviceSlice,
) -> Result<()> {
    let cut = Cut::new(s, s.c_out, x.dtype);
    let taps = s.kernel[0] * s.kernel[1];
    // Blocks for different rows of the kernel, or taps, each go over all pixels. Of a 3x3 kernel a thread holds every tap.
    let (kind, parts, strip) = match usual(s) {
        Some(kind) if s.kernel[0] == 3 => (kind, 1, 2),
        Some(kind) => (kind, s.kernel[0], STRIP),
        None => ("any".to_string(), taps, 1),
    };
    let items = s.n * s.out_h() * s.out_w().div_ceil(strip);
    let chunk = cut.chunk(items, parts);
    let chunks = items.div_ceil(chunk);
    let partial = gpu.empty(chunks * taps * s.c_out, DType::F32)?;
    let partial = partial.as_slice(DType::F32);
    let mut grid = Grid::line(chunks, THREADS);
    grid.blocks = [chunks as u32, cut.tiles as u32, parts as u32];
    let shape = geometry(s, cut.lanes, Turn::Forward);
    let args = args![x, dy, partial, chunk as i32, Arg::of(&shape)];
    gpu.launch(FAMILY, &format!("depthwise_{kind}_weight_bwd_{}", x.dtype), grid, args)?;
    let args = args![partial, chunks as i32, taps as i32, s.c_out as i32, dw];
    let kernel = format!("depthwise_finalize_bwd_{}", dw.dtype);
    gpu.launch(FAMILY, &kernel, merge_grid(taps * s.c_out), args)
}

const FAMILY: &str = "depthwise";

/// Output pixels of a strip.
const STRIP: usize = 4;

/// Bytes of weights that a block may hold in shared memory.
const SHARED: usize = 48 << 10;

/// The kernels of their own for square kernels at a square stride, by their names.
fn usual(s: &ConvShape) -> Option<String> {
    let square = s.kernel[0] == s.kernel[1] && s.stride[0] == s.stride[1];
    let plain = s.dilation == [1, 1] && s.c_in == s.c_out;
    let known = matches!((s.kernel[0], s.stride[0]), (3 | 5, 1 | 2) | (7, 1));
    (square && plain && known).then(|| format!("k{}s{}", s.kernel[0], s.stride[0]))
}

/// Packs of channels side by side in a block: up to 16, as many as shared memory has room for.
fn lanes(s: &ConvShape, dtype: DType) -> Option<usize> {
    let pack = 16 / dtype.size();
    let widest = s.c_in.div_ceil(pack).next_power_of_two().min(16);
    let bytes = |lanes: &usize| lanes * shared_of_lane(s, dtype);
    [16, 8, 4, 2, 1].into_iter().filter(|lanes| *lanes <= widest).find(|lanes| bytes(lanes) <= SHARED)
}

/// Bytes of one pack's weights: those of all output channels of its input channels.
fn shared_of_lane(s: &ConvShape, dtype: DType) -> usize {
    s.kernel[0] * s.kernel[1] * (16 / dtype.size()) * s.group_out() * size_of::<f32>()
}

/// How channels and pixels are cut into blocks.
struct Cut {
    lanes: usize,
    tiles: usize,
    shared: usize,
}

impl Cut {
    /// Blocks over `c` channels. The convolution suits.
    fn new(s: &ConvShape, c: usize, dtype: DType) -> Cut {
        let lanes = lanes(s, dtype).unwrap_or(1);
        let tiles = c.div_ceil(lanes * 16 / dtype.size());
        Cut { lanes, tiles, shared: lanes * shared_of_lane(s, dtype) }
    }

    /// Blocks for so many strips or pixels: each brings the weights of its channels, and has some work for them.
    fn grid(&self, items: usize) -> Grid {
        let rows = THREADS / self.lanes;
        let mut grid = Grid::line(items.div_ceil(4 * rows).clamp(1, (4096 / self.tiles).max(64)), THREADS);
        grid.blocks[1] = self.tiles as u32;
        grid.shared = self.shared as u32;
        grid
    }

    /// Strips or pixels of one chunk of a sum, for kernels that go over them `parts` times.
    fn chunk(&self, items: usize, parts: usize) -> usize {
        let chunks = (512 / self.tiles / parts).max(8);
        items.div_ceil(chunks).max(4 * THREADS / self.lanes)
    }
}

/// Whether an image is convolved, or the output's gradient with the kernel turned round.
enum Turn {
    Forward,
    Backward,
}

/// `struct Depthwise` of the kernels.
fn geometry(s: &ConvShape, lanes: usize, turn: Turn) -> [i32; 17] {
    let (input, output) = ([s.h, s.w], [s.out_h(), s.out_w()]);
    let (from, to, padding, turned) = match turn {
        Turn::Forward => (input, output, s.padding.map(|p| p as i32), 0),
        Turn::Backward => (output, input, [0, 1].map(|a| s.kernel[a] as i32 - 1 - s.padding[a] as i32), 1),
    };
    let i = |v: usize| v as i32;
    let [[kh, kw], [sh, sw], [dh, dw]] = [s.kernel, s.stride, s.dilation].map(|pair| pair.map(i));
    [
        i(s.n),
        i(from[0]),
        i(from[1]),
        i(to[0]),
        i(to[1]),
        i(s.c_in),
        i(s.c_out),
        kh,
        kw,
        sh,
        sw,
        padding[0],
        padding[1],
        dh,
        dw,
        i(lanes),
        turned,
    ]
}
