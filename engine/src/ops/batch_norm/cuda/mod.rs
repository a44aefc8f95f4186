//! Batch norm with activation and residual (`kernels/cu/batch_norm/batch_norm.cu`). Each direction takes two passes over the data: a
//! reduction, and an elementwise pass that applies its results.
pub(crate) mod from_sums;
pub(crate) mod pair;
pub(crate) mod pool;
pub(crate) mod ranks;

use crate::cuda::launch::arguments::element_format;
use crate::cuda::launch::channels::{Chunks, THREADS, TICKETS};
use crate::cuda::{DeviceBuffer, DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args, int};
use crate::{Activation, DType};
pub(crate) use fornax_kernels::arguments::BackwardFactors;
use fornax_kernels::arguments::{FusedActivation, StatisticsMerge, SumsMerge};
use fornax_kernels::{Address, AddressMut, Any, ByValue};
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
    pub(crate) fn dtype(&self) -> DType {
        let running = self.running.map(|[mean, _]| mean);
        self.weight.or(self.bias).or(running).map_or(DType::F32, |slice| slice.dtype)
    }

    /// Addresses of running mean and variance; null if there are none, or they are not `updated`.
    pub(crate) fn running_addresses(&self, updated: bool) -> [AddressMut<Any>; 2] {
        let running = self.running.filter(|_| updated);
        running.map_or([AddressMut::NULL; 2], |running| running.map(AddressMut::from))
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
    pub(crate) fn arguments(self) -> (f32, Address<i64>) {
        match self {
            RunningMomentum::Constant(momentum) => (momentum as f32, Address::NULL),
            RunningMomentum::Cumulative(batches) => (0.0, batches.into()),
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
    let [running_mean, running_var] = parameters.running_addresses(momentum.is_some());
    let (constant, batches) = momentum.map_or((0.0, Address::NULL), RunningMomentum::arguments);
    let merge = StatisticsMerge {
        weight: parameters.weight.map_or(Address::NULL, Address::from),
        bias: parameters.bias.map_or(Address::NULL, Address::from),
        running_mean,
        running_var,
        saved: saved.into(),
        batches,
        momentum: constant,
        eps: parameters.eps as f32,
        format: element_format(parameters.dtype()),
        ..StatisticsMerge::zeroed()
    };
    merge_statistics(gpu, "batch_norm_statistics", x, c, merge)
}

/// Computes the `moments` of this rank's values, `[2 c + 1]` f32: mean and sum of squared deviations by channel, and the number of values.
pub(crate) fn moments(gpu: &Arc<Gpu>, x: DeviceSlice, c: usize, moments: DeviceSlice) -> Result<()> {
    let merge = StatisticsMerge { saved: moments.into(), ..StatisticsMerge::zeroed() };
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
    let merge = StatisticsMerge {
        tickets: partial.tickets(0),
        partial: partial.by_chunk(),
        merged: partial.by_group(),
        ..merge
    };
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
    pub(crate) fn chunks(self, rows: usize, c: usize, dtype: DType) -> Chunks {
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
        let merge = partial.sums_merge(0, [dweight, dbias], factors, self.factors);
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
pub(crate) struct PartialResults<'a> {
    gpu: &'a Gpu,
    by_chunk: DeviceBuffer,
    by_group: DeviceBuffer,
}

impl PartialResults<'_> {
    pub(crate) fn new<'a>(gpu: &'a Arc<Gpu>, chunks: &Chunks, c: usize) -> Result<PartialResults<'a>> {
        let by_group = chunks.merge_groups() * 2 * c * size_of::<f64>();
        Ok(PartialResults {
            gpu,
            by_chunk: gpu.empty(chunks.count * 2 * c, DType::F32)?,
            by_group: gpu.allocate(by_group)?,
        })
    }

    /// Merges them into the wanted gradients of weight and bias, and into `factors`. Merges of one kernel have different numbers, 0 and 1.
    pub(crate) fn sums_merge(
        &self,
        number: usize,
        [dweight, dbias]: [Option<DeviceSlice>; 2],
        factors: DeviceSlice,
        kind: BackwardFactors,
    ) -> SumsMerge {
        SumsMerge {
            tickets: self.tickets(number),
            partial: self.by_chunk(),
            merged: self.by_group(),
            dweight: dweight.map_or(AddressMut::NULL, AddressMut::from),
            dbias: dbias.map_or(AddressMut::NULL, AddressMut::from),
            factors: factors.into(),
            kind,
            format: element_format(dweight.or(dbias).map_or(DType::F32, |slice| slice.dtype)),
        }
    }

    fn tickets(&self, number: usize) -> AddressMut<u32> {
        AddressMut::new(self.gpu.tickets() + (number * TICKETS * size_of::<u32>()) as u64)
    }

    fn by_chunk(&self) -> AddressMut<f32> {
        self.by_chunk.as_slice(DType::F32).into()
    }

    fn by_group(&self) -> AddressMut<f64> {
        self.by_group.as_slice(DType::F64).into()
    }
}

/// Code of a fused activation in the kernels.
pub(crate) fn activation_code(f: Activation) -> i32 {
    let fused = match f {
        Activation::Identity => FusedActivation::Identity,
        Activation::Relu => FusedActivation::Relu,
        Activation::Relu6 => FusedActivation::Relu6,
        Activation::Silu => FusedActivation::Silu,
        Activation::HardSwish => FusedActivation::HardSwish,
        other => unreachable!("{other:?} is not fused"),
    };
    fused as i32
}
