//! Batch norm with activation and residual (`kernels/cu/batch_norm.cu`). Each direction takes two passes over the data: a reduction, and
//! an elementwise pass that applies its results.
use super::channels::{Chunks, THREADS, merge_grid};
use super::{DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args};
use crate::{Activation, DType};
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

/// Computes mean and variance of the batch into `saved`, and updates the running statistics if `momentum` is given.
pub(crate) fn statistics(
    gpu: &Arc<Gpu>,
    x: DeviceSlice,
    c: usize,
    parameters: &BatchNormParameters,
    momentum: Option<f64>,
    saved: DeviceSlice,
) -> Result<()> {
    let rows = x.len / c;
    let chunks = Chunks::for_sums(rows, c, x.dtype);
    let partial = gpu.empty(chunks.count * 2 * c, DType::F32)?;
    let partial = partial.as_slice(DType::F32);
    let kernel = Kernel::new(MODULE, "batch_norm_statistics").of(x.dtype);
    gpu.launch(kernel, chunks.grid(), args![x, partial, rows, c as i32, chunks.rows as i32])?;
    let updated = parameters.running.filter(|_| momentum.is_some());
    gpu.launch(
        Kernel::new(MODULE, "batch_norm_finalize").of(parameters.dtype()),
        merge_grid(c),
        args![
            partial,
            chunks.count as i32,
            rows,
            chunks.rows as i32,
            c as i32,
            KernelArg::optional(parameters.weight),
            KernelArg::optional(parameters.bias),
            KernelArg::optional(updated.map(|[mean, _]| mean)),
            KernelArg::optional(updated.map(|[_, var]| var)),
            momentum.unwrap_or(0.0) as f32,
            parameters.eps as f32,
            saved,
        ],
    )
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
    let args = args![mean, var, weight, bias, parameters.eps as f32, c as i32, saved];
    let grid = LaunchConfig::linear(c.div_ceil(THREADS), THREADS);
    gpu.launch(Kernel::new(MODULE, "batch_norm_frozen").of(parameters.dtype()), grid, args)
}

/// Bytes per row of the ReLU mask, one bit per channel.
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
    let chunks = Chunks::for_elements(rows, c, x.dtype);
    let args = args![
        x,
        saved,
        KernelArg::optional(residual),
        y,
        rows,
        c as i32,
        chunks.rows as i32,
        activation_code(f)
    ];
    gpu.launch(Kernel::new(MODULE, "batch_norm_fwd").of(x.dtype), chunks.grid(), args)
}

/// [`apply`] for ReLU or ReLU6 with a residual; also writes `mask`, rows of [`mask_bytes`] bytes with the activation's derivative.
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
    let chunks = Chunks::for_elements_by_packs(rows, mask_bytes(c));
    let args = args![x, saved, residual, y, mask, rows, c as i32, chunks.rows as i32, activation_code(f)];
    gpu.launch(Kernel::new(MODULE, "batch_norm_masked_fwd").of(x.dtype), chunks.grid(), args)
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
pub(crate) struct BatchNormBackward<'a> {
    pub(crate) gpu: &'a Arc<Gpu>,
    pub(crate) x: DeviceSlice<'a>,
    pub(crate) c: usize,
    pub(crate) saved: DeviceSlice<'a>,
    pub(crate) activation: Activation,
    /// True if mean and variance are the batch's, so that gradients flow through them.
    pub(crate) batch_statistics: bool,
}

impl BatchNormBackward<'_> {
    /// Reduction pass: computes the gradients of weight and bias, `d = dy * f'` if given (required with a mask; may be `dy`), and
    /// `factors`, `[2, c]` f32, for [`Self::input_gradient`].
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
        let partial = self.gpu.empty(chunks.count * 2 * c, DType::F32)?;
        let partial = partial.as_slice(DType::F32);
        let (x, saved, per_chunk) = (self.x, self.saved, chunks.rows as i32);
        let d = KernelArg::optional(d);
        if let DerivativeSource::Mask(mask) = source {
            let kernel = Kernel::new(MODULE, "batch_norm_masked_sums_bwd").of(x.dtype);
            let args = args![x, dy, mask, saved, d, partial, rows, c as i32, per_chunk];
            self.gpu.launch(kernel, chunks.grid(), args)?;
        } else {
            let residual = match source {
                DerivativeSource::Residual(residual) => Some(residual),
                _ => None,
            };
            let kernel = Kernel::new(MODULE, "batch_norm_sums_bwd").of(x.dtype);
            let (residual, f) = (KernelArg::optional(residual), activation_code(self.activation));
            let args = args![x, dy, residual, saved, d, partial, rows, c as i32, per_chunk, f];
            self.gpu.launch(kernel, chunks.grid(), args)?;
        }
        let dtype = dweight.or(dbias).map_or(DType::F32, |slice| slice.dtype);
        self.gpu.launch(
            Kernel::new(MODULE, "batch_norm_finalize_bwd").of(dtype),
            merge_grid(c),
            args![
                partial,
                chunks.count as i32,
                rows,
                c as i32,
                self.saved,
                i32::from(self.batch_statistics),
                KernelArg::optional(dweight),
                KernelArg::optional(dbias),
                factors,
            ],
        )
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
        let chunks = Chunks::for_elements(rows, c, self.x.dtype);
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
        self.gpu.launch(Kernel::new(MODULE, "batch_norm_bwd").of(self.x.dtype), chunks.grid(), args)
    }
}

const MODULE: &str = "batch_norm";

/// Code of a fused activation in the kernels.
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
