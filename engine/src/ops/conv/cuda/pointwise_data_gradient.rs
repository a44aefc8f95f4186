//! Data gradient of a 1x1 convolution fused with the backward sums of the batch norms before it
//! (`kernels/cu/batch_norm/pointwise_data_gradient.cu`).
use crate::cuda::launch::channels::Chunks;
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, Result, args, int};
use crate::ops::batch_norm::cuda::pair::BatchNormPair;
use crate::ops::batch_norm::cuda::{BackwardFactors, BatchNormBackward, DerivativeSource, PartialResults};
use crate::{Activation, ConvShape, DType};
use std::sync::Arc;

/// True for the shapes and dtypes of the kernel: 1x1 with stride 1 in f16 or bf16, with channels in multiples of 8.
pub(crate) fn supports(s: &ConvShape, dtype: DType) -> bool {
    let is_pointwise = s.kernel == [1, 1]
        && s.stride == [1, 1]
        && s.padding == [0, 0]
        && s.dilation == [1, 1]
        && s.groups == 1;
    let in_packs = s.c_in.is_multiple_of(8) && s.c_out.is_multiple_of(8);
    let fits = s.c_in <= TILE[1] * MAX_COLUMNS && s.input_len() > 0 && s.output_len() > 0;
    matches!(dtype, DType::F16 | DType::BF16) && is_pointwise && in_packs && fits
}

/// Operands: the gradient `dy` of the convolution's output and its `weight`; the sum of the other gradients of the convolution's input, if
/// any; and of the batch norms that computed that input, with ReLU's `mask`, their inputs and saved statistics: one or two.
#[derive(Clone, Copy)]
pub(crate) struct PointwiseDataGradient<'a> {
    pub(crate) gpu: &'a Arc<Gpu>,
    pub(crate) shape: &'a ConvShape,
    pub(crate) dy: DeviceSlice<'a>,
    pub(crate) weight: DeviceSlice<'a>,
    pub(crate) skip: Option<DeviceSlice<'a>>,
    pub(crate) mask: DeviceSlice<'a>,
    pub(crate) norms: &'a [(DeviceSlice<'a>, DeviceSlice<'a>)],
}

/// Results of the sums of one batch norm: the wanted gradients of weight and bias, and the factors with their content.
#[derive(Clone, Copy)]
pub(crate) struct NormSums<'a> {
    pub(crate) parameters: [Option<DeviceSlice<'a>>; 2],
    pub(crate) factors: DeviceSlice<'a>,
    pub(crate) kind: BackwardFactors,
}

impl PointwiseDataGradient<'_> {
    /// Computes d, the gradient of the convolution's input where the mask's bits are set and 0 elsewhere, and the sums of each batch norm;
    /// `d` may be the memory of the skip gradient.
    pub(crate) fn compute(&self, d: DeviceSlice, sums: &[NormSums]) -> Result<()> {
        let (c, k) = (self.shape.c_in, self.shape.c_out);
        let rows = d.len / c;
        let chunks = Chunks::for_sums_by_tiles(rows, c, TILE);
        let partial =
            sums.iter().map(|_| PartialResults::new(self.gpu, &chunks, c)).collect::<Result<Vec<_>>>()?;
        let merge = |p: usize| {
            let NormSums { parameters, factors, kind } = sums[p];
            partial[p].sums_merge(p, parameters, factors, kind)
        };
        let (skip, mask, per_chunk) = (KernelArg::optional(self.skip), self.mask, int(chunks.rows));
        let (dy, weight, k, c) = (self.dy, self.weight, int(k), int(c));
        match *self.norms {
            [(x, saved)] => {
                let merge = merge(0);
                let merge = KernelArg::by_value(&merge);
                let args = args![dy, weight, skip, mask, x, saved, d, merge, rows, k, c, per_chunk];
                self.gpu.launch(
                    Kernel::new(MODULE, "pointwise_data_gradient").of(d.dtype),
                    chunks.grid(),
                    args,
                )
            }
            [(x0, saved0), (x1, saved1)] => {
                let merges = [merge(0), merge(1)];
                let [merge0, merge1] = merges.each_ref().map(KernelArg::by_value);
                let args = args![
                    dy, weight, skip, mask, x0, x1, saved0, saved1, d, merge0, merge1, rows, k, c, per_chunk
                ];
                let kernel = Kernel::new(MODULE, "pointwise_data_gradient_pair").of(d.dtype);
                self.gpu.launch(kernel, chunks.grid(), args)
            }
            _ => unreachable!("one or two batch norms"),
        }
    }

    /// True if [`Self::compute`] is faster than cuDNN's data gradient and the sums pass, which are timed at the first use of a shape.
    pub(crate) fn is_preferred(&self) -> Result<bool> {
        let (gpu, s, dtype) = (self.gpu, self.shape, self.dy.dtype);
        let slices = [self.dy, self.weight].into_iter().chain(self.skip);
        if slices.chain(self.norms.iter().map(|(x, _)| *x)).any(|slice| slice.pointer % 16 != 0) {
            return Ok(false);
        }
        let c = s.c_in;
        // Memory for both, so that neither time includes allocations, which the emulated device counts as operations. The own kernel, timed
        // first, writes d, to which every run of the separate passes adds; the values do not matter.
        let (d, factors) = (gpu.empty(s.input_len(), dtype)?, self.scratch_factors()?);
        let sums: Vec<NormSums> = factors.iter().map(|of| of.as_slice(DType::F32)).map(scratch).collect();
        let mut own = || Ok(self.compute(d.as_slice(dtype), &sums)?);
        let mut separate = || {
            let dx = d.as_slice(dtype);
            if self.skip.is_none() || !super::add_data_gradient(gpu, s, self.dy, self.weight, dx)? {
                super::data_gradient(gpu, s, self.dy, self.weight, dx)?;
            }
            let kind = BackwardFactors::OfBatch;
            match *self.norms {
                [(x, saved)] => {
                    let norm =
                        BatchNormBackward { gpu, x, c, saved, activation: Activation::Relu, factors: kind };
                    let source = DerivativeSource::Mask(self.mask);
                    Ok(norm.reduce(dx, source, Some(dx), [None; 2], factors[0].as_slice(DType::F32))?)
                }
                [(x0, saved0), (x1, saved1)] => {
                    let pair = BatchNormPair { gpu, x: [x0, x1], saved: [saved0, saved1], c };
                    let factors = [0, 1].map(|p| factors[p].as_slice(DType::F32));
                    Ok(pair.reduce(dx, self.mask, [[None; 2]; 2], factors, [kind; 2])?)
                }
                _ => unreachable!("one or two batch norms"),
            }
        };
        let options = gpu.conv_options();
        Ok(gpu.bind().map(|_access| {
            gpu.cudnn()?.prefers_own_data_gradient(s, dtype, options, &mut own, &mut separate)
        })??)
    }

    /// Memory for the factors of each batch norm.
    fn scratch_factors(&self) -> Result<Vec<crate::cuda::DeviceBuffer>> {
        self.norms.iter().map(|_| self.gpu.empty(2 * self.shape.c_in, DType::F32)).collect()
    }
}

/// Sums for a timing.
fn scratch(factors: DeviceSlice) -> NormSums {
    NormSums { parameters: [None; 2], factors, kind: BackwardFactors::OfBatch }
}

const MODULE: &str = "pointwise_data_gradient";

/// Rows and channels that a block computes at a time: `kRows` and `kColumns` in the kernels.
const TILE: [usize; 2] = [128, 128];

/// Maximum number of columns of a grid, so that the partial sums have tickets.
const MAX_COLUMNS: usize = 512;
