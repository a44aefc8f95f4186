//! Statistics and parameters of channels on the CPU, in f64.
use super::{Channels, StatisticsSource};
use crate::op::match_float;
use crate::ops::batch_norm::BatchNorm;
use crate::ops::batch_norm::cpu as kernel;
use crate::ops::batch_norm::moments::Moments;
use crate::{DType, Element, Result, Tensor};

pub(super) fn of(x: &Tensor, c: usize, norm: &BatchNorm) -> Result<Channels> {
    let mut moments = Moments { count: (x.numel() / c) as f64, ..Moments::default() };
    match norm.running.filter(|_| !norm.uses_batch_statistics()) {
        Some((mean, var)) => (moments.mean, moments.var) = (to_f64(mean)?, to_f64(var)?),
        None => {
            (moments.mean, moments.var) = match_float!(x.dtype(), T => kernel::statistics::<T>(&x.read()?, c))
        }
    }
    let mut source =
        if norm.uses_batch_statistics() { StatisticsSource::Batch } else { StatisticsSource::Running };
    if let Some(group) = norm.synced() {
        moments = moments.of_all_ranks(&**group)?;
        source = StatisticsSource::Ranks(group.clone(), Tensor::from_vec(vec![moments.count], [1])?);
    }
    if norm.training {
        update_running(norm, &moments)?;
    }
    let Moments { mean, var, .. } = moments;
    let inv_std: Vec<f64> = var.iter().map(|v| 1.0 / (v + norm.eps).sqrt()).collect();
    let weight = norm.weight.map_or_else(|| Ok(vec![1.0; c]), to_f64)?;
    let bias = norm.bias.map_or_else(|| Ok(vec![0.0; c]), to_f64)?;
    let scale: Vec<f64> = weight.iter().zip(&inv_std).map(|(w, i)| w * i).collect();
    let shift: Vec<f64> = (0..c).map(|j| bias[j] - mean[j] * weight[j] * inv_std[j]).collect();
    Ok(Channels { saved: Tensor::from_vec([mean, inv_std, scale, shift].concat(), [4, c])?, source })
}

/// `running = (1 - momentum) * running + momentum * batch`, with the unbiased variance.
fn update_running(norm: &BatchNorm, Moments { count, mean, var }: &Moments) -> Result<()> {
    let Some((running_mean, running_var)) = norm.running else { return Ok(()) };
    let (unbiased, momentum) = (count / (count - 1.0), momentum(norm)?);
    for (running, batch, factor) in [(running_mean, mean, 1.0), (running_var, var, unbiased)] {
        match_float!(running.dtype(), T => {
            for (r, b) in running.write::<T>()?.iter_mut().zip(batch) {
                *r = T::from_f64((1.0 - momentum) * r.to_f64() + momentum * b * factor);
            }
        });
    }
    Ok(())
}

/// Weight of the batch in the running statistics; counts the batch if batches are counted.
fn momentum(norm: &BatchNorm) -> Result<f64> {
    let Some(number) = norm.counted_batches() else { return Ok(norm.momentum) };
    let mut number = number.write::<i64>()?;
    number[0] += 1;
    Ok(1.0 / number[0] as f64)
}

fn to_f64(t: &Tensor) -> Result<Vec<f64>> {
    t.detach().to_dtype(DType::F64)?.to_vec()
}
