//! Scale and shift of a batch norm's channels, and the statistics that they follow from.
mod cpu;
mod cuda;

use super::BatchNorm;
use crate::{Collective, Device, Element, Result, Tensor};
pub(super) use cuda::{factors_kind, finish_factors, of_pair};
use std::sync::Arc;

/// Normalization of each channel.
pub(super) struct Channels {
    /// Mean, inverse deviation, scale and shift, `[4, c]`: f64 on the CPU, f32 on a GPU.
    pub(super) saved: Tensor,
    source: StatisticsSource,
}

/// Values whose mean and variance normalize.
enum StatisticsSource {
    /// Those of earlier batches, by the running statistics.
    Running,
    /// The batch's.
    Batch,
    /// Those of all ranks, and their number by channel, `[1]`, in the dtype of [`Channels::saved`].
    Ranks(Arc<dyn Collective>, Tensor),
}

impl Channels {
    /// Computes the parameters of x from the running statistics or the batch's, by way of its sums if given, and updates the running statistics
    /// in training.
    pub(super) fn of(x: (&Tensor, Option<&Tensor>), c: usize, norm: &BatchNorm) -> Result<Channels> {
        match x.0.device() {
            Device::Cpu => cpu::of(x.0, c, norm),
            Device::Cuda(_) => cuda::of(x, c, norm),
        }
    }

    /// Mean, inverse deviation, scale or shift (row `k` of the saved values): `[c]`.
    pub(super) fn row(&self, k: usize) -> Result<Tensor> {
        self.saved.narrow(0, k, 1)?.reshape([self.saved.dims()[1]])
    }

    /// The ranks whose values have the statistics.
    pub(super) fn group(&self) -> Option<&Arc<dyn Collective>> {
        match &self.source {
            StatisticsSource::Ranks(group, _) => Some(group),
            _ => None,
        }
    }

    /// Number of values per channel on the CPU, of all ranks with a group; `None` if no gradient flows through the statistics.
    pub(super) fn count(&self, x: &Tensor) -> Result<Option<f64>> {
        match &self.source {
            StatisticsSource::Running => Ok(None),
            StatisticsSource::Batch => Ok(Some((x.numel() / self.saved.dims()[1]) as f64)),
            StatisticsSource::Ranks(_, count) => Ok(Some(count.item()?)),
        }
    }
}

/// Row `k` of saved values on the CPU.
pub(super) fn row<T: Element>(saved: &[f64], k: usize) -> Vec<T> {
    let c = saved.len() / 4;
    saved[k * c..][..c].iter().map(|v| T::from_f64(*v)).collect()
}
