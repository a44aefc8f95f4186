//! Batch norm with activation and residual (`kernels/cu/batch_norm/batch_norm.cu`). Each direction takes two passes over the data: a reduction, and
//! an elementwise pass that applies its results.
use super::channels::{Chunks, THREADS, TICKETS};
use super::{DeviceBuffer, DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args, int};
use crate::{Activation, DType};
use bytemuck::Zeroable;
use std::sync::Arc;

/// Weight, bias and running statistics, each `[c]` and all of one dtype, and eps.
#[derive(Clone, Copy, Default)]
pub(crate) struct BatchNormParameters<'a> {
    pub(crate) weight: Option<DeviceSlice<'a>>,
    pub(crate) bias: Option<DeviceSlice<'a>>,
    pub(crate) running: Option<[DeviceSlice<'a>; 2]>,
    pub(crate) eps: f64,
}

impl BatchNormParameters<'_> {
    pub(super) fn dtype(&self) -> DType {
        let running = self.running.map(|[mean, _]| mean);
        self.weight.or(self.bias).or(running).map_or(DType::F32, |slice| slice.dtype)
    }
}

/// Rows of the saved statistics, `[4, c]` f32: mean, 1 / std, scale and shift of each channel.
pub(crate) const SAVED_ROWS: usize = 4;

/// Weight of the batch in the running statistics.
#[derive(Clone, Copy)]
pub(crate) enum RunningMomentum<'a> {
    /// The same for all batches.
    Constant(f64),
    /// 1 / number of batches, an i64 scalar in which this batch is [counted](count_batch).
    Cumulative(DeviceSlice<'a>),
}

impl RunningMomentum<'_> {
    /// Constant weight, and address of the number of batches or null.
    pub(super) fn arguments(self) -> (f32, u64) {
        match self {
            RunningMomentum::Constant(momentum) => (momentum as f32, 0),
            RunningMomentum::Cumulative(batches) => (0.0, batches.pointer),
        }
    }
}

/// Increments the number of batches.
pub(crate) fn count_batch(gpu: &Gpu, batches: DeviceSlice) -> Result<()> {
    gpu.launch(Kernel::new(MODULE, "batch_norm_count"), LaunchConfig::linear(1, 1), args![batches])
}

/// Computes mean and variance of the batch into `saved`, and updates the running statistics if `momentum` is given.
pub(crate) fn statistics(
    gpu: &Arc<Gpu>,
    x: DeviceSlice,
    c: usize,
    parameters: &BatchNormParameters,
    momentum: Option<RunningMomentum>,
    saved: DeviceSlice,
) -> Result<()> {
    let [mean, var] =
        parameters.running.filter(|_| momentum.is_some()).map_or([0; 2], |r| r.map(|r| r.pointer));
    let (constant, batches) = momentum.map_or((0.0, 0), RunningMomentum::arguments);
    let merge = StatisticsMerge {
        weight: parameters.weight.map_or(0, |weight| weight.pointer),
        bias: parameters.bias.map_or(0, |bias| bias.pointer),
        running_mean: mean,
        running_var: var,
        saved: saved.pointer,
        batches,
        momentum: constant,
        eps: parameters.eps as f32,
        dtype: dtype_code(parameters.dtype()),
        ..StatisticsMerge::zeroed()
    };
    merge_statistics(gpu, "batch_norm_statistics", x, c, merge)
}

/// Computes the `moments` of this rank's values, `[2 c + 1]` f32: mean and sum of squared deviations by channel, and the number of values.
pub(crate) fn moments(gpu: &Arc<Gpu>, x: DeviceSlice, c: usize, moments: DeviceSlice) -> Result<()> {
    let merge = StatisticsMerge { saved: moments.pointer, ..StatisticsMerge::zeroed() };
    merge_statistics(gpu, "batch_norm_moments", x, c, merge)
}

/// Computes the statistics of x, and merges those of its chunks.
fn merge_statistics(
    gpu: &Arc<Gpu>,
    name: &'static str,
    x: DeviceSlice,
    c: usize,
    merge: StatisticsMerge,
) -> Result<()> {
    let rows = x.len / c;
    let chunks = Chunks::for_sums(rows, c, x.dtype);
    let partial = PartialResults::new(gpu, &chunks, c)?;
    let merge = StatisticsMerge { partial: partial.pointers(), ..merge };
    let kernel = Kernel::new(MODULE, name).of(x.dtype);
    let args = args![x, KernelArg::by_value(&merge), rows, int(c), int(chunks.rows)];
    gpu.launch(kernel, chunks.grid(), args)
}

/// Computes `saved` from the running statistics.
pub(crate) fn frozen_statistics(
    gpu: &Gpu,
    [mean, var]: [DeviceSlice; 2],
    c: usize,
    parameters: &BatchNormParameters,
    saved: DeviceSlice,
) -> Result<()> {
    let (weight, bias) = (KernelArg::optional(parameters.weight), KernelArg::optional(parameters.bias));
    let args = args![mean, var, weight, bias, parameters.eps as f32, int(c), saved];
    let grid = LaunchConfig::linear(c.div_ceil(THREADS), THREADS);
    gpu.launch(Kernel::new(MODULE, "batch_norm_frozen").of(parameters.dtype()), grid, args)
}

/// Bytes per row of the ReLU mask, one bit per channel.
pub(crate) fn mask_bytes(c: usize) -> usize {
    c.div_ceil(8)
}

/// Pass over x before an elementwise one, which begins where that pass ended: the L2 cache still holds the end.
#[derive(Clone, Copy)]
pub(crate) enum PassBefore {
    /// [`statistics`], or another reduction.
    Reduction,
    /// Convolution that wrote x.
    Convolution,
}

impl PassBefore {
    pub(super) fn chunks(self, rows: usize, c: usize, dtype: DType) -> Chunks {
        match self {
            PassBefore::Reduction => Chunks::for_sums(rows, c, dtype),
            PassBefore::Convolution => Chunks::whole(rows, c, dtype),
        }
    }

    /// [`PassBefore::chunks`] with eight channels per thread.
    fn chunks_by_eight(self, rows: usize, c: usize) -> Chunks {
        match self {
            PassBefore::Reduction => Chunks::for_sums_by_packs(rows, mask_bytes(c)),
            PassBefore::Convolution => Chunks::whole_by_packs(rows, mask_bytes(c)),
        }
    }
}

/// `y = f(x * scale + shift + residual)`
pub(crate) fn apply(
    gpu: &Gpu,
    (x, before): (DeviceSlice, PassBefore),
    c: usize,
    saved: DeviceSlice,
    residual: Option<DeviceSlice>,
    f: Activation,
    y: DeviceSlice,
) -> Result<()> {
    let rows = x.len / c;
    let kernel = Kernel::new(MODULE, "batch_norm_fwd").of(x.dtype);
    let chunks = before.chunks(rows, c, x.dtype);
    let args =
        args![x, saved, KernelArg::optional(residual), y, rows, int(c), int(chunks.rows), activation_code(f)];
    gpu.launch(kernel, chunks.backward_grid(gpu.resident_blocks(kernel)?), args)
}

/// [`apply`] for ReLU or ReLU6 with a residual; also writes `mask`, rows of [`mask_bytes`] bytes with the activation's derivative.
pub(crate) fn apply_masked(
    gpu: &Gpu,
    (x, before): (DeviceSlice, PassBefore),
    c: usize,
    [saved, residual]: [DeviceSlice; 2],
    f: Activation,
    y: DeviceSlice,
    mask: DeviceSlice,
) -> Result<()> {
    let rows = x.len / c;
    let kernel = Kernel::new(MODULE, "batch_norm_masked_fwd").of(x.dtype);
    let chunks = before.chunks_by_eight(rows, c);
    let args = args![x, saved, residual, y, mask, rows, int(c), int(chunks.rows), activation_code(f)];
    gpu.launch(kernel, chunks.backward_grid(gpu.resident_blocks(kernel)?), args)
}

/// Source of the activation's derivative besides the normalized value.
#[derive(Clone, Copy)]
pub(crate) enum DerivativeSource<'a> {
    None,
    Residual(DeviceSlice<'a>),
    /// Mask written by [`apply_masked`].
    Mask(DeviceSlice<'a>),
}

/// Operands of a batch norm's backward pass.
#[derive(Clone, Copy)]
pub(crate) struct BatchNormBackward<'a> {
    pub(crate) gpu: &'a Arc<Gpu>,
    pub(crate) x: DeviceSlice<'a>,
    pub(crate) c: usize,
    pub(crate) saved: DeviceSlice<'a>,
    pub(crate) activation: Activation,
    pub(crate) factors: BackwardFactors,
}

/// Result of the backward pass's sums of d and of d * (x - mean), `[2, c]` f32, besides the gradients of weight and bias.
#[derive(Clone, Copy)]
pub(crate) enum BackwardFactors {
    /// Zeros: mean and variance are the running ones.
    Zeros,
    /// Factors of the input gradient that flows through the batch's mean and variance.
    OfBatch,
    /// The sums, which are to be added over the ranks.
    Sums,
}

impl BatchNormBackward<'_> {
    /// Reduction pass: computes the gradients of weight and bias, `d = dy * f'` if given (required with a mask; may be `dy`), and
    /// `factors`, `[2, c]` f32, of which [`Self::input_gradient`] takes all kinds but sums.
    pub(crate) fn reduce(
        &self,
        dy: DeviceSlice,
        source: DerivativeSource,
        d: Option<DeviceSlice>,
        [dweight, dbias]: [Option<DeviceSlice>; 2],
        factors: DeviceSlice,
    ) -> Result<()> {
        let (c, rows) = (self.c, self.x.len / self.c);
        let chunks = match source {
            DerivativeSource::Mask(_) => Chunks::for_sums_by_packs(rows, mask_bytes(c)),
            _ => Chunks::for_sums(rows, c, self.x.dtype),
        };
        let partial = PartialResults::new(self.gpu, &chunks, c)?;
        let merge = SumsMerge::new(&partial, [dweight, dbias], factors, self.factors);
        let merge = KernelArg::by_value(&merge);
        let (x, saved, per_chunk) = (self.x, self.saved, int(chunks.rows));
        let d = KernelArg::optional(d);
        if let DerivativeSource::Mask(mask) = source {
            let kernel = Kernel::new(MODULE, "batch_norm_masked_sums_bwd").of(x.dtype);
            let args = args![x, dy, mask, saved, d, merge, rows, int(c), per_chunk];
            return self.gpu.launch(kernel, chunks.grid(), args);
        }
        let residual = match source {
            DerivativeSource::Residual(residual) => Some(residual),
            _ => None,
        };
        let kernel = Kernel::new(MODULE, "batch_norm_sums_bwd").of(x.dtype);
        let (residual, f) = (KernelArg::optional(residual), activation_code(self.activation));
        let args = args![x, dy, residual, saved, d, merge, rows, int(c), per_chunk, f];
        self.gpu.launch(kernel, chunks.grid(), args)
    }

    /// Gradient of the input from `dy` (then `f` is the activation) or from `d` (then `f` is the identity). `dx` may be `dy`.
    pub(crate) fn input_gradient(
        &self,
        dy: DeviceSlice,
        factors: DeviceSlice,
        f: Activation,
        dx: DeviceSlice,
    ) -> Result<()> {
        let (c, rows) = (self.c, self.x.len / self.c);
        let kernel = Kernel::new(MODULE, "batch_norm_bwd").of(self.x.dtype);
        let chunks = PassBefore::Reduction.chunks(rows, c, self.x.dtype);
        let args =
            args![self.x, dy, self.saved, factors, dx, rows, int(c), int(chunks.rows), activation_code(f)];
        self.gpu.launch(kernel, chunks.backward_grid(self.gpu.resident_blocks(kernel)?), args)
    }
}

const MODULE: &str = "batch_norm";

/// Memory for the partial results of a column merge (`kernels/cu/column_merge.cuh`), two per channel, chunk and group of chunks.
pub(super) struct PartialResults<'a> {
    gpu: &'a Gpu,
    by_chunk: DeviceBuffer,
    by_group: DeviceBuffer,
}

impl PartialResults<'_> {
    pub(super) fn new<'a>(gpu: &'a Arc<Gpu>, chunks: &Chunks, c: usize) -> Result<PartialResults<'a>> {
        let by_group = chunks.merge_groups() * 2 * c * size_of::<f64>();
        Ok(PartialResults {
            gpu,
            by_chunk: gpu.empty(chunks.count * 2 * c, DType::F32)?,
            by_group: gpu.allocate(by_group)?,
        })
    }

    fn pointers(&self) -> PartialPointers {
        PartialPointers {
            tickets: self.gpu.tickets(),
            by_chunk: self.by_chunk.as_slice(DType::F32).pointer,
            by_group: self.by_group.as_slice(DType::F64).pointer,
        }
    }
}

/// First fields of the structs below.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit, bytemuck::Zeroable)]
struct PartialPointers {
    tickets: u64,
    by_chunk: u64,
    by_group: u64,
}

/// Same layout as `struct StatisticsMerge` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit, bytemuck::Zeroable)]
struct StatisticsMerge {
    partial: PartialPointers,
    weight: u64,
    bias: u64,
    running_mean: u64,
    running_var: u64,
    saved: u64,
    batches: u64,
    momentum: f32,
    eps: f32,
    dtype: i32,
    padding: i32,
}

/// Same layout as `struct SumsMerge`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub(super) struct SumsMerge {
    partial: PartialPointers,
    dweight: u64,
    dbias: u64,
    factors: u64,
    kind: i32,
    dtype: i32,
}

impl SumsMerge {
    /// Merges `partial` into the wanted gradients of weight and bias, and into `factors`.
    pub(super) fn new(
        partial: &PartialResults,
        [dweight, dbias]: [Option<DeviceSlice>; 2],
        factors: DeviceSlice,
        kind: BackwardFactors,
    ) -> SumsMerge {
        SumsMerge {
            partial: partial.pointers(),
            dweight: dweight.map_or(0, |slice| slice.pointer),
            dbias: dbias.map_or(0, |slice| slice.pointer),
            factors: factors.pointer,
            kind: kind as i32,
            dtype: dtype_code(dweight.or(dbias).map_or(DType::F32, |slice| slice.dtype)),
        }
    }

    /// The same with other tickets, for the second merge of a kernel.
    pub(super) fn with_second_tickets(mut self) -> SumsMerge {
        self.partial.tickets += (size_of::<u32>() * TICKETS) as u64;
        self
    }
}

/// Code of the dtype of parameters in the kernels.
fn dtype_code(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 2,
        other => unreachable!("parameters of {other} are rejected"),
    }
}

/// Code of a fused activation in the kernels.
pub(super) fn activation_code(f: Activation) -> i32 {
    match f {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Relu6 => 2,
        Activation::Silu => 3,
        Activation::HardSwish => 4,
        other => unreachable!("{other:?} is not fused"),
    }
}
