//! Scale and shift of a batch norm's channels on a GPU, and the statistics that they follow from.
use crate::cuda::batch_norm::{
    self as kernel, BackwardFactors, BatchNormParameters, RunningMomentum, SAVED_ROWS,
};
use crate::cuda::conv_norm::{self, SummedNorm};
use crate::cuda::{DeviceSlice, sync_norm};
use crate::ops::batch_norm::BatchNorm;
use crate::ops::gpu::OnGpu;
use crate::{Collective, DType, Result, Tensor};
use std::sync::Arc;

/// Normalization of each channel.
pub(super) struct ChannelParameters {
    /// Mean, inverse deviation, scale and shift, `[SAVED_ROWS, c]`.
    pub(super) saved: Tensor,
    pub(super) source: StatisticsSource,
}

/// Values whose mean and variance normalize.
pub(super) enum StatisticsSource {
    /// Those of earlier batches, by the running statistics.
    Running,
    /// The batch's.
    Batch,
    /// Those of all ranks, and their number by channel, f32 `[1]`.
    Ranks(Arc<dyn Collective>, Tensor),
}

impl ChannelParameters {
    /// Computes the parameters from the batch's statistics (by way of its sums if given) or the running ones.
    pub(super) fn of(
        on: &OnGpu,
        (x, sums): (&Tensor, Option<&Tensor>),
        c: usize,
        norm: &BatchNorm,
    ) -> Result<ChannelParameters> {
        let Some(group) = norm.synced() else {
            let has_own = norm.training || norm.running.is_none();
            let source = if has_own { StatisticsSource::Batch } else { StatisticsSource::Running };
            return Ok(ChannelParameters { saved: of_own_values(on, (x, sums), c, norm)?, source });
        };
        let own = on.build([2 * c + 1], DType::F32, |moments| match sums {
            Some(sums) => {
                let (x, sums) = (x.device_view(), sums.device_view());
                conv_norm::moments(&on.gpu, (x.slice(), sums.slice()), c, moments)
            }
            None => kernel::moments(&on.gpu, x.device_view().slice(), c, moments),
        })?;
        let all = group.all_gather(&own)?;
        let count = on.empty([1], DType::F32)?;
        let saved = on.build([SAVED_ROWS, c], DType::F32, |saved| {
            let (all, count) = (all.device_view(), count.device_view());
            with_parameters(on, norm, |parameters, momentum| {
                let momentum = momentum.expect("ranks are merged in training");
                sync_norm::merge(&on.gpu, all.slice(), c, parameters, momentum, [saved, count.slice()])
            })
        })?;
        Ok(ChannelParameters { saved, source: StatisticsSource::Ranks(group.clone(), count) })
    }

    /// Parameters of two norms of inputs of one shape and dtype. One launch computes those of two convolutions with sums.
    pub(super) fn of_pair(
        on: &OnGpu,
        norms: [(&Tensor, Option<&Tensor>, &BatchNorm); 2],
        c: usize,
    ) -> Result<[ChannelParameters; 2]> {
        let [(x, sums, norm), (other, other_sums, other_norm)] = norms;
        let (Some(sums), Some(other_sums), true) = (sums, other_sums, share_a_launch([norm, other_norm], c))
        else {
            // The shortcut's statistics are computed first, as without the fusion.
            let of_other = ChannelParameters::of(on, (other, other_sums), c, other_norm)?;
            return Ok([ChannelParameters::of(on, (x, sums), c, norm)?, of_other]);
        };
        let saved = [on.empty([SAVED_ROWS, c], DType::F32)?, on.empty([SAVED_ROWS, c], DType::F32)?];
        let views =
            [[x, sums, &saved[0]], [other, other_sums, &saved[1]]].map(|of| of.map(Tensor::device_view));
        let [[x, sums, of_x], [other, other_sums, of_other]] =
            views.each_ref().map(|of| of.each_ref().map(|t| t.slice()));
        on.with_op_context(with_parameters(on, norm, |&parameters, momentum| {
            let first = SummedNorm { y: x, sums, parameters, momentum, saved: of_x };
            with_parameters(on, other_norm, |&parameters, momentum| {
                let second = SummedNorm { y: other, sums: other_sums, parameters, momentum, saved: of_other };
                conv_norm::pair_statistics(&on.gpu, [first, second], c)
            })
        }))?;
        drop(views);
        Ok(saved.map(|saved| ChannelParameters { saved, source: StatisticsSource::Batch }))
    }

    /// Content of the factors that the backward pass's sums become, if the gradient of x is wanted.
    pub(super) fn factors(&self, dx_wanted: bool) -> BackwardFactors {
        match &self.source {
            StatisticsSource::Batch => BackwardFactors::OfBatch,
            StatisticsSource::Ranks(..) if dx_wanted => BackwardFactors::Sums,
            _ => BackwardFactors::Zeros,
        }
    }

    /// Turns sums over all ranks into factors.
    pub(super) fn finish_factors(&self, on: &OnGpu, sums: DeviceSlice) -> Result<()> {
        let StatisticsSource::Ranks(_, count) = &self.source else { return Ok(()) };
        let (saved, count) = (self.saved.device_view(), count.device_view());
        on.with_op_context(sync_norm::factors(&on.gpu, sums, saved.slice(), count.slice()))
    }

    /// The ranks whose values have the statistics.
    pub(super) fn group(&self) -> Option<&Arc<dyn Collective>> {
        match &self.source {
            StatisticsSource::Ranks(group, _) => Some(group),
            _ => None,
        }
    }
}

/// Calls `f` with the parameters of a norm on the device and, in training, the weight of the batch in the running statistics, after it has
/// counted the batch.
fn with_parameters<R>(
    on: &OnGpu,
    norm: &BatchNorm,
    f: impl FnOnce(&BatchNormParameters, Option<RunningMomentum>) -> crate::cuda::Result<R>,
) -> crate::cuda::Result<R> {
    let views = [norm.weight, norm.bias, norm.running.map(|r| r.0), norm.running.map(|r| r.1)]
        .map(|t| t.map(Tensor::device_view));
    let [weight, bias, mean, var] = views.each_ref().map(|t| t.as_ref().map(|t| t.slice()));
    let running = mean.zip(var).map(|(mean, var)| [mean, var]);
    let batches = norm.counted_batches().map(Tensor::device_view);
    let momentum = norm.training.then(|| momentum(norm, batches.as_ref().map(|t| t.slice())));
    if let Some(RunningMomentum::Cumulative(batches)) = momentum {
        kernel::count_batch(&on.gpu, batches)?;
    }
    f(&BatchNormParameters { weight, bias, running, eps: norm.eps }, momentum)
}

/// [`ChannelParameters::saved`] without other ranks.
fn of_own_values(
    on: &OnGpu,
    (x, sums): (&Tensor, Option<&Tensor>),
    c: usize,
    norm: &BatchNorm,
) -> Result<Tensor> {
    on.build([SAVED_ROWS, c], DType::F32, |saved| {
        with_parameters(on, norm, |parameters, momentum| match (sums, parameters.running) {
            (Some(sums), _) => {
                let (x, sums) = (x.device_view(), sums.device_view());
                let (y, sums, parameters) = (x.slice(), sums.slice(), *parameters);
                conv_norm::statistics(&on.gpu, SummedNorm { y, sums, parameters, momentum, saved }, c)
            }
            (None, Some(running)) if !norm.training => {
                kernel::frozen_statistics(&on.gpu, running, c, parameters, saved)
            }
            _ => kernel::statistics(&on.gpu, x.device_view().slice(), c, parameters, momentum, saved),
        })
    })
}

/// True if one launch can compute the parameters of both norms: it adds no values of other ranks, and needs parameters of one dtype. Norms that
/// update the same tensor take turns.
fn share_a_launch(norms: [&BatchNorm; 2], c: usize) -> bool {
    let [of, other] = norms.map(updated_addresses);
    let dtypes = norms.map(|norm| norm.operands().first().map_or(DType::F32, |(_, tensor)| tensor.dtype()));
    norms.iter().all(|norm| norm.synced().is_none())
        && dtypes[0] == dtypes[1]
        && !of.iter().any(|address| other.contains(address))
        && conv_norm::supports_pair(c)
}

/// Addresses of the tensors that a training pass updates.
fn updated_addresses(norm: &BatchNorm) -> Vec<u64> {
    let running = norm.running.filter(|_| norm.training).into_iter().flat_map(|(mean, var)| [mean, var]);
    running.chain(norm.counted_batches()).map(|tensor| tensor.device_view().slice().pointer).collect()
}

/// Weight of the batch in the running statistics; `batches` is the number of batches on the device.
pub(in crate::ops::batch_norm) fn momentum<'a>(
    norm: &BatchNorm,
    batches: Option<DeviceSlice<'a>>,
) -> RunningMomentum<'a> {
    batches.map_or(RunningMomentum::Constant(norm.momentum), RunningMomentum::Cumulative)
}
