//! Statistics and parameters of channels on a GPU. The running statistics are updated there, without synchronization.
use super::{Channels, StatisticsSource};
use crate::cuda::{self, DeviceSlice, Gpu};
use crate::op::launch;
use crate::ops::batch_norm::BatchNorm;
use crate::ops::batch_norm::cuda::from_sums::{self, SummedNorm};
use crate::ops::batch_norm::cuda::ranks;
use crate::ops::batch_norm::cuda::{
    self as kernel, BackwardFactors, BatchNormParameters, RunningMomentum, SAVED_ROWS,
};
use crate::{DType, Result, Shape, Tensor};
use std::sync::Arc;

const OP: &str = "batch_norm";

pub(super) fn of((x, sums): (&Tensor, Option<&Tensor>), c: usize, norm: &BatchNorm) -> Result<Channels> {
    let operands: Vec<_> = [("x", x)].into_iter().chain(sums.map(|sums| ("sums", sums))).collect();
    let Some(group) = norm.synced() else {
        let source =
            if norm.uses_batch_statistics() { StatisticsSource::Batch } else { StatisticsSource::Running };
        let saved = launch(OP, &operands, |gpu, of| {
            build(gpu, &[SAVED_ROWS, c], |saved| {
                with_parameters(gpu, norm, |parameters, momentum| match (of.get(1), parameters.running) {
                    (Some(sums), _) => {
                        let (y, sums, parameters) = (of[0], *sums, *parameters);
                        from_sums::statistics(gpu, SummedNorm { y, sums, parameters, momentum, saved }, c)
                    }
                    (None, Some(running)) if !norm.training => {
                        kernel::frozen_statistics(gpu, running, c, parameters, saved)
                    }
                    _ => kernel::statistics(gpu, of[0], c, parameters, momentum, saved),
                })
            })
        })?;
        return Ok(Channels { saved, source });
    };
    let own = launch(OP, &operands, |gpu, of| {
        build(gpu, &[2 * c + 1], |moments| match of.get(1) {
            Some(sums) => from_sums::moments(gpu, (of[0], *sums), c, moments),
            None => kernel::moments(gpu, of[0], c, moments),
        })
    })?;
    let all = group.all_gather(&own)?;
    let (saved, count) = launch(OP, &[("moments", &all)], |gpu, all| {
        let count = build(gpu, &[1], |_| Ok(()))?;
        let of_count = count.device_view();
        let saved = build(gpu, &[SAVED_ROWS, c], |saved| {
            with_parameters(gpu, norm, |parameters, momentum| {
                let momentum = momentum.expect("ranks are merged in training");
                ranks::merge(gpu, all[0], c, parameters, momentum, [saved, of_count.slice()])
            })
        })?;
        drop(of_count);
        Ok((saved, count))
    })?;
    Ok(Channels { saved, source: StatisticsSource::Ranks(group.clone(), count) })
}

/// Parameters of two norms of inputs of one shape and dtype. One launch computes those of two convolutions with sums.
pub(in crate::ops::batch_norm) fn of_pair(
    norms: [(&Tensor, Option<&Tensor>, &BatchNorm); 2],
    c: usize,
) -> Result<[Channels; 2]> {
    let [(x, sums, norm), (other, other_sums, other_norm)] = norms;
    let (Some(sums), Some(other_sums), true) = (sums, other_sums, share_a_launch([norm, other_norm], c))
    else {
        // The shortcut's statistics are computed first, as without the fusion.
        let of_other = Channels::of((other, other_sums), c, other_norm)?;
        return Ok([Channels::of((x, sums), c, norm)?, of_other]);
    };
    let operands = [("x", x), ("sums", sums), ("shortcut", other), ("sums", other_sums)];
    let saved = launch(OP, &operands, |gpu, of| {
        let saved = [build(gpu, &[SAVED_ROWS, c], |_| Ok(()))?, build(gpu, &[SAVED_ROWS, c], |_| Ok(()))?];
        let views = saved.each_ref().map(Tensor::device_view);
        let [first, second] = views.each_ref().map(|view| view.slice());
        with_parameters(gpu, norm, |&parameters, momentum| {
            let first = SummedNorm { y: of[0], sums: of[1], parameters, momentum, saved: first };
            with_parameters(gpu, other_norm, |&parameters, momentum| {
                let second = SummedNorm { y: of[2], sums: of[3], parameters, momentum, saved: second };
                from_sums::pair_statistics(gpu, [first, second], c)
            })
        })?;
        drop(views);
        Ok(saved)
    })?;
    Ok(saved.map(|saved| Channels { saved, source: StatisticsSource::Batch }))
}

/// Content of the factors that the backward pass's sums become, if the gradient of x is wanted.
pub(in crate::ops::batch_norm) fn factors_kind(channels: &Channels, dx_wanted: bool) -> BackwardFactors {
    match &channels.source {
        StatisticsSource::Batch => BackwardFactors::OfBatch,
        StatisticsSource::Ranks(..) if dx_wanted => BackwardFactors::Sums,
        _ => BackwardFactors::Zeros,
    }
}

/// Turns sums over all ranks, `[2, c]`, into factors.
pub(in crate::ops::batch_norm) fn finish_factors(channels: &Channels, sums: &Tensor) -> Result<()> {
    let StatisticsSource::Ranks(_, count) = &channels.source else { return Ok(()) };
    launch(OP, &[("sums", sums), ("saved", &channels.saved), ("count", count)], |gpu, of| {
        ranks::factors(gpu, of[0], of[1], of[2])
    })
}

/// An f32 tensor that `fill` writes.
fn build(
    gpu: &Arc<Gpu>,
    dims: &[usize],
    fill: impl FnOnce(DeviceSlice) -> cuda::Result<()>,
) -> cuda::Result<Tensor> {
    Tensor::build_on(gpu, Shape::must_fit(dims), DType::F32, fill)
}

/// Calls `f` with the parameters of a norm on the device and, in training, the weight of the batch in the running statistics, after it has
/// counted the batch.
fn with_parameters<R>(
    gpu: &Arc<Gpu>,
    norm: &BatchNorm,
    f: impl FnOnce(&BatchNormParameters, Option<RunningMomentum>) -> cuda::Result<R>,
) -> cuda::Result<R> {
    let views = [norm.weight, norm.bias, norm.running.map(|r| r.0), norm.running.map(|r| r.1)]
        .map(|t| t.map(Tensor::device_view));
    let [weight, bias, mean, var] = views.each_ref().map(|t| t.as_ref().map(|t| t.slice()));
    let running = mean.zip(var).map(|(mean, var)| [mean, var]);
    let batches = norm.counted_batches().map(Tensor::device_view);
    let momentum = norm.training.then(|| match &batches {
        Some(batches) => RunningMomentum::Cumulative(batches.slice()),
        None => RunningMomentum::Constant(norm.momentum),
    });
    if let Some(RunningMomentum::Cumulative(batches)) = momentum {
        kernel::count_batch(gpu, batches)?;
    }
    f(&BatchNormParameters { weight, bias, running, eps: norm.eps }, momentum)
}

/// True if one launch can compute the parameters of both norms: it adds no values of other ranks, and needs parameters of one dtype. Norms that
/// update the same tensor take turns.
fn share_a_launch(norms: [&BatchNorm; 2], c: usize) -> bool {
    let [of, other] = norms.map(updated_addresses);
    let dtypes = norms.map(|norm| norm.operands().first().map_or(DType::F32, |(_, tensor)| tensor.dtype()));
    norms.iter().all(|norm| norm.synced().is_none())
        && dtypes[0] == dtypes[1]
        && !of.iter().any(|address| other.contains(address))
        && from_sums::supports_pair(c)
}

/// Addresses of the tensors that a training pass updates.
fn updated_addresses(norm: &BatchNorm) -> Vec<u64> {
    let running = norm.running.filter(|_| norm.training).into_iter().flat_map(|(mean, var)| [mean, var]);
    running.chain(norm.counted_batches()).map(|tensor| tensor.device_view().slice().pointer).collect()
}
