//! Batch norm with activation and residual (`kernels/cu/batch_norm.cu`): a pass of statistics and one that applies them; back, a
//! pass of sums and one that applies those.
use super::channels::{Chunks, THREADS, merge_grid};
use super::{Arg, DeviceSlice, Gpu, Grid, Result, args};
use crate::{Activation, DType};
use std::sync::Arc;

/// Parameters and running statistics, each `[c]` and all of one dtype, and eps.
#[derive(Clone, Copy)]
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

/// What forward hands to backward: `[4, c]` floats, the mean, 1 / std, scale and shift of each channel.
pub(crate) const SAVED_ROWS: usize = 4;

/// Mean and variance of the batch, folded into `saved`; the running ones follow by `momentum` where it is given.
pub(crate) fn statistics(
    gpu: &Arc<Gpu>,
    x: DeviceSlice,
    c: usize,
    parameters: &BatchNormParameters,
    momentum: Option<f64>,
    saved: DeviceSlice,
) -> Result<()> {
    let rows = x.len / c;
    let chunks = Chunks::of_sums(rows, c, x.dtype);
    let partial = gpu.empty(chunks.count * 2 * c, DType::F32)?;
    let partial = partial.as_slice(DType::F32);
    let kernel = format!("batch_norm_statistics_{}", x.dtype);
    gpu.launch(FAMILY, &kernel, chunks.grid(), args![x, partial, rows, c as i32, chunks.rows as i32])?;
    let updated = parameters.running.filter(|_| momentum.is_some());
    gpu.launch(
        FAMILY,
        &format!("batch_norm_finalize_{}", parameters.dtype()),
        merge_grid(c),
        args![
            partial,
            chunks.count as i32,
            rows,
            chunks.rows as i32,
            c as i32,
            Arg::optional(parameters.weight),
            Arg::optional(parameters.bias),
            Arg::optional(updated.map(|[mean, _]| mean)),
            Arg::optional(updated.map(|[_, var]| var)),
            momentum.unwrap_or(0.0) as f32,
            parameters.eps as f32,
            saved,
        ],
    )
}

/// The running statistics, folded into `saved`.
pub(crate) fn frozen_statistics(
    gpu: &Gpu,
    [mean, var]: [DeviceSlice; 2],
    c: usize,
    parameters: &BatchNormParameters,
    saved: DeviceSlice,
) -> Result<()> {
    let (weight, bias) = (Arg::optional(parameters.weight), Arg::optional(parameters.bias));
    let args = args![mean, var, weight, bias, parameters.eps as f32, c as i32, saved];
    let grid = Grid::line(c.div_ceil(THREADS), THREADS);
    gpu.launch(FAMILY, &format!("batch_norm_frozen_{}", parameters.dtype()), grid, args)
}

/// Bytes of a row of the mask of slopes, a bit a channel.
pub(crate) fn mask_bytes(c: usize) -> usize {
    c.div_ceil(8)
}

/// `y = f(x * scale + shift + residual)`
pub(crate) fn apply(
    gpu: &Gpu,
    x: DeviceSlice,
    c: usize,
    saved: DeviceSlice,
    residual: Option<DeviceSlice>,
    f: Activation,
    y: DeviceSlice,
) -> Result<()> {
    let rows = x.len / c;
    let chunks = Chunks::of_elements(rows, c, x.dtype);
    let args =
        args![x, saved, Arg::optional(residual), y, rows, c as i32, chunks.rows as i32, activation_code(f)];
    gpu.launch(FAMILY, &format!("batch_norm_fwd_{}", x.dtype), chunks.grid(), args)
}

/// As [`apply`], of ReLU or ReLU6 after a residual; `mask`, rows of [`mask_bytes`], tells where the slope is 1.
pub(crate) fn apply_masked(
    gpu: &Gpu,
    x: DeviceSlice,
    c: usize,
    [saved, residual]: [DeviceSlice; 2],
    f: Activation,
    y: DeviceSlice,
    mask: DeviceSlice,
) -> Result<()> {
    let rows = x.len / c;
    let chunks = Chunks::elements_of_packs(rows, mask_bytes(c));
    let args = args![x, saved, residual, y, mask, rows, c as i32, chunks.rows as i32, activation_code(f)];
    gpu.launch(FAMILY, &format!("batch_norm_masked_fwd_{}", x.dtype), chunks.grid(), args)
}

/// What tells the slope of the activation at an element, beside the normalised value.
#[derive(Clone, Copy)]
pub(crate) enum DerivativeSource<'a> {
    None,
    Residual(DeviceSlice<'a>),
    /// The mask that [`apply_masked`] wrote.
    Mask(DeviceSlice<'a>),
}

/// One batch norm's operands in the backward pass.
pub(crate) struct BatchNormBackward<'a> {
    pub(crate) gpu: &'a Arc<Gpu>,
    pub(crate) x: DeviceSlice<'a>,
    pub(crate) c: usize,
    pub(crate) saved: DeviceSlice<'a>,
    pub(crate) activation: Activation,
    /// Mean and variance are the batch's, so that gradients flow through them.
    pub(crate) batch_statistics: bool,
}

impl BatchNormBackward<'_> {
    /// The gradients of weight and bias, `d = dy * f'` where it is asked for (a mask asks for it; it may be `dy`), and `factors` `[2, c]` floats for
    /// [`Backward::input_gradient`].
    pub(crate) fn reduce(
        &self,
        dy: DeviceSlice,
        beside: DerivativeSource,
        d: Option<DeviceSlice>,
        [dweight, dbias]: [Option<DeviceSlice>; 2],
        factors: DeviceSlice,
    ) -> Result<()> {
        let (c, rows) = (self.c, self.x.len / self.c);
        let chunks = match beside {
            DerivativeSource::Mask(_) => Chunks::sums_of_packs(rows, mask_bytes(c)),
            _ => Chunks::of_sums(rows, c, self.x.dtype),
        };
        let partial = self.gpu.empty(chunks.count * 2 * c, DType::F32)?;
        let partial = partial.as_slice(DType::F32);
        let (x, saved, per_chunk) = (self.x, self.saved, chunks.rows as i32);
        let d = Arg::optional(d);
        if let DerivativeSource::Mask(mask) = beside {
            let kernel = format!("batch_norm_masked_sums_bwd_{}", x.dtype);
            let args = args![x, dy, mask, saved, d, partial, rows, c as i32, per_chunk];
            self.gpu.launch(FAMILY, &kernel, chunks.grid(), args)?;
        } else {
            let residual = match beside {
                DerivativeSource::Residual(residual) => Some(residual),
                _ => None,
            };
            let kernel = format!("batch_norm_sums_bwd_{}", x.dtype);
            let (residual, f) = (Arg::optional(residual), activation_code(self.activation));
            let args = args![x, dy, residual, saved, d, partial, rows, c as i32, per_chunk, f];
            self.gpu.launch(FAMILY, &kernel, chunks.grid(), args)?;
        }
        let dtype = dweight.or(dbias).map_or(DType::F32, |slice| slice.dtype);
        self.gpu.launch(
            FAMILY,
            &format!("batch_norm_finalize_bwd_{dtype}"),
            merge_grid(c),
            args![
                partial,
                chunks.count as i32,
                rows,
                c as i32,
                self.saved,
                i32::from(self.batch_statistics),
                Arg::optional(dweight),
                Arg::optional(dbias),
                factors,
            ],
        )
    }

    /// The input's gradient, which may be `dy`, from `dy` (`f` is then the activation) or from `d` (`f` is the identity).
    pub(crate) fn input_gradient(
        &self,
        dy: DeviceSlice,
        factors: DeviceSlice,
        f: Activation,
        dx: DeviceSlice,
    ) -> Result<()> {
        let (c, rows) = (self.c, self.x.len / self.c);
        let chunks = Chunks::of_elements(rows, c, self.x.dtype);
        let args = args![
            self.x,
            dy,
            self.saved,
            factors,
            dx,
            rows,
            c as i32,
            chunks.rows as i32,
            activation_code(f)
        ];
        self.gpu.launch(FAMILY, &format!("batch_norm_bwd_{}", self.x.dtype), chunks.grid(), args)
    }
}

const FAMILY: &str = "batch_norm";

/// The number of a fused activation in the kernels.
fn activation_code(f: Activation) -> i32 {
    match f {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Relu6 => 2,
        Activation::Silu => 3,
        Activation::HardSwish => 4,
        other => unreachable!("{other:?} is not fused"),
    }
}
