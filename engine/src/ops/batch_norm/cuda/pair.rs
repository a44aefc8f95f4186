//! ReLU of the sum of two batch norms (`kernels/cu/batch_norm/batch_norm_pair.cu`).
use super::{BackwardFactors, PartialResults, mask_bytes};
use crate::cuda::launch::channels::Chunks;
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, Result, args, int};
use std::sync::Arc;

/// Inputs of the two batch norms, and their saved statistics ([`super::SAVED_ROWS`]).
#[derive(Clone, Copy)]
pub(crate) struct BatchNormPair<'a> {
    pub(crate) gpu: &'a Arc<Gpu>,
    pub(crate) x: [DeviceSlice<'a>; 2],
    pub(crate) saved: [DeviceSlice<'a>; 2],
    pub(crate) c: usize,
}

impl BatchNormPair<'_> {
    fn rows(&self) -> usize {
        self.x[0].len / self.c
    }

    fn kernel(&self, name: &'static str) -> Kernel {
        Kernel::new(MODULE, name).of(self.x[0].dtype)
    }

    /// Computes `y`, and `mask`, rows of [`mask_bytes`] bytes with ReLU's derivative.
    pub(crate) fn forward(&self, y: DeviceSlice, mask: DeviceSlice) -> Result<()> {
        let (rows, c) = (self.rows(), self.c);
        let kernel = self.kernel("batch_norm_pair_fwd");
        let chunks = Chunks::whole_by_packs(rows, mask_bytes(c));
        let ([x0, x1], [saved0, saved1]) = (self.x, self.saved);
        let args = args![x0, x1, saved0, saved1, y, mask, rows, int(c), int(chunks.rows)];
        self.gpu.launch(kernel, chunks.backward_grid(self.gpu.resident_blocks(kernel)?), args)
    }

    /// Computes the gradients of each normalization's weight and bias, where wanted, and its `factors`, `[2, c]` f32, for
    /// [`Self::input_gradients`].
    pub(crate) fn reduce(
        &self,
        dy: DeviceSlice,
        mask: DeviceSlice,
        parameters: [[Option<DeviceSlice>; 2]; 2],
        factors: [DeviceSlice; 2],
        kinds: [BackwardFactors; 2],
    ) -> Result<()> {
        let (rows, c) = (self.rows(), self.c);
        let chunks = Chunks::for_sums_by_packs(rows, mask_bytes(c));
        let partial =
            [PartialResults::new(self.gpu, &chunks, c)?, PartialResults::new(self.gpu, &chunks, c)?];
        let merge = |p: usize| partial[p].sums_merge(p, parameters[p], factors[p], kinds[p]);
        let merges = [merge(0), merge(1)];
        let [merge0, merge1] = merges.each_ref().map(KernelArg::by_value);
        let ([x0, x1], [saved0, saved1]) = (self.x, self.saved);
        let args = args![x0, x1, saved0, saved1, dy, mask, merge0, merge1, rows, int(c), int(chunks.rows)];
        self.gpu.launch(self.kernel("batch_norm_pair_sums_bwd"), chunks.grid(), args)
    }

    /// Gradients of the wanted inputs. The first may be in the memory of `dy`.
    pub(crate) fn input_gradients(
        &self,
        dy: DeviceSlice,
        mask: DeviceSlice,
        [factors0, factors1]: [DeviceSlice; 2],
        dx: [Option<DeviceSlice>; 2],
    ) -> Result<()> {
        let (rows, c) = (self.rows(), self.c);
        let kernel = self.kernel("batch_norm_pair_bwd");
        let chunks = Chunks::for_sums_by_packs(rows, mask_bytes(c));
        let ([x0, x1], [saved0, saved1]) = (self.x, self.saved);
        let [dx0, dx1] = dx.map(KernelArg::optional);
        let args = args![
            x0,
            x1,
            saved0,
            saved1,
            dy,
            mask,
            factors0,
            factors1,
            dx0,
            dx1,
            rows,
            int(c),
            int(chunks.rows)
        ];
        self.gpu.launch(kernel, chunks.backward_grid(self.gpu.resident_blocks(kernel)?), args)
    }
}

const MODULE: &str = "batch_norm_pair";
