//! Batch normalisation with the statistics of all ranks (PyTorch's `SyncBatchNorm`).
use super::batch_norm::check;
use super::gpu::OnGpu;
use crate::autograd::is_tracked;
use crate::cuda::batch_norm::count_batch;
use crate::{Activation, BatchNorm, Collective, DType, Error, Reduction, Result, Tensor, gradients, no_grad};
use std::sync::Arc;

/// Statistics over the batches of all ranks.
struct GlobalStatistics {
    /// Number of values per channel, `[1]`.
    count: Tensor,
    /// `[c]`.
    mean: Tensor,
    /// Biased variance, `[c]`.
    var: Tensor,
}

impl Tensor {
    /// [`Tensor::batch_norm_act`] in training, with mean and variance over the batches of all ranks, which may differ in size. Forward and
    /// backward pass exchange two vectors of c elements each. The gradients of weight and bias are those of this rank's samples.
    pub fn sync_batch_norm_act(
        &self,
        norm: &BatchNorm,
        group: &Arc<dyn Collective>,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        // The statistics are given to the kernels of evaluation, as if they were the running ones.
        let c = check(self, &BatchNorm { training: false, ..*norm }, residual)?;
        if !norm.training {
            return Err(Error::value(
                "sync_batch_norm",
                &[("x", self)],
                "synchronises statistics in training only",
            ));
        }
        let statistics = no_grad(|| {
            let statistics = GlobalStatistics::of(self, c, &**group)?;
            statistics.update_running(norm)?;
            Ok::<_, Error>(statistics)
        })?;
        let GlobalStatistics { mean, var, .. } = &statistics;
        let vector = |given: Option<&Tensor>, value: f64| match given {
            Some(given) => Ok(given.detach()),
            None => Tensor::full([c], value, mean.dtype(), &self.device()),
        };
        let mut inputs = vec![self];
        inputs.extend(norm.weight);
        inputs.extend(norm.bias);
        inputs.extend(residual);
        let is_tracked = is_tracked(&inputs);
        let leaf = |t: Tensor| if is_tracked { t.variable() } else { t };
        let (x, weight, bias) =
            (leaf(self.detach()), leaf(vector(norm.weight, 1.0)?), leaf(vector(norm.bias, 0.0)?));
        let residual = residual.map(|r| leaf(r.detach()));
        let fixed = BatchNorm {
            weight: Some(&weight),
            bias: Some(&bias),
            running: Some((mean, var)),
            training: false,
            num_batches_tracked: None,
            ..*norm
        };
        let y = x.batch_norm_act(&fixed, activation, residual.as_ref())?;
        let (has_weight, has_bias, eps, group) =
            (norm.weight.is_some(), norm.bias.is_some(), norm.eps, group.clone());
        Ok(y.detach().with_backward("sync_batch_norm", &inputs, || {
            move |grad: Tensor, needs: &[bool]| {
                let wanted: Vec<&Tensor> = [&x, &weight, &bias].into_iter().chain(&residual).collect();
                let mut of = gradients(&[(&y, &grad)], &wanted, false)?.into_iter().flatten();
                let mut next = || of.next().expect("the output depends on every input");
                let (dx, d_weight, d_bias) = (next(), next(), next());
                let dx = match needs[0] {
                    true => Some(statistics.input_gradient(
                        &x,
                        dx,
                        &weight,
                        [&d_bias, &d_weight],
                        eps,
                        &*group,
                    )?),
                    false => None,
                };
                let mut all = vec![dx];
                all.extend(has_weight.then_some(Some(d_weight)));
                all.extend(has_bias.then_some(Some(d_bias)));
                if residual.is_some() {
                    all.push(Some(next()));
                }
                Ok(all)
            }
        }))
    }
}

/// Counts the batch on a GPU, if batches are counted there; its weight in the running statistics, an f32 scalar of the GPU, as a replayed CUDA
/// graph must compute it anew.
fn cumulative_weight_on_gpu(norm: &BatchNorm) -> Result<Option<Tensor>> {
    let Some(batches) = norm.counted_batches() else { return Ok(None) };
    let operands = [("num_batches_tracked", batches)];
    let Some(on) = OnGpu::of_any("sync_batch_norm", &operands)? else { return Ok(None) };
    on.with_op_context(count_batch(&on.gpu, batches.device_view().slice()))?;
    Ok(Some(batches.to_dtype(DType::F32)?.powf(-1.0)?))
}

impl GlobalStatistics {
    /// The statistics of x `[…, c]` on all ranks, weighted by their numbers of values.
    fn of(x: &Tensor, c: usize, group: &dyn Collective) -> Result<GlobalStatistics> {
        let dtype = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let x = x.detach().to_dtype(dtype)?;
        let axes: Vec<usize> = (0..x.rank() - 1).collect();
        let count = Tensor::full([1], (x.numel() / c) as f64, dtype, &x.device())?;
        let local = Tensor::concat(&[&x.mean(&axes, false)?, &x.var(&axes, 0, false)?, &count], 0)?;
        let all = group.all_gather(&local)?;
        let (means, vars, counts) = (all.narrow(1, 0, c)?, all.narrow(1, c, c)?, all.narrow(1, 2 * c, 1)?);
        let count = counts.sum(&[0], true)?;
        let weights = counts.div(&count)?;
        let mean = means.mul(&weights)?.sum(&[0], false)?;
        // The variance within the ranks and that of their means.
        let var = vars.add(&means.sub(&mean)?.square()?)?.mul(&weights)?.sum(&[0], false)?;
        Ok(GlobalStatistics { count: count.reshape([1])?, mean, var })
    }

    /// Updates the running statistics, with the unbiased variance.
    fn update_running(&self, norm: &BatchNorm) -> Result<()> {
        let Some((running_mean, running_var)) = norm.running else { return Ok(()) };
        let unbiased = self.var.mul(&self.count.div(&self.count.affine(1.0, -1.0)?)?)?;
        let statistics = [(running_mean, &self.mean), (running_var, &unbiased)];
        if let Some(weight) = cumulative_weight_on_gpu(norm)? {
            return statistics.into_iter().try_for_each(|(running, batch)| {
                running.copy_from(&running.add(&batch.sub(running)?.mul(&weight)?)?)
            });
        }
        let momentum = norm.count_batch()?;
        for (running, batch) in statistics {
            let batch = batch.to_dtype(running.dtype())?;
            running.copy_from(&running.mul_scalar(1.0 - momentum)?.add(&batch.mul_scalar(momentum)?)?)?;
        }
        Ok(())
    }

    /// Adds the gradient that flows through the statistics to that of x under fixed statistics, given the sums over this rank's values of d
    /// and of d times the normalised x; d is the gradient of the normalisation's output.
    fn input_gradient(
        &self,
        x: &Tensor,
        dx: Tensor,
        weight: &Tensor,
        [d_sum, d_dot]: [&Tensor; 2],
        eps: f64,
        group: &dyn Collective,
    ) -> Result<Tensor> {
        let dtype = self.mean.dtype();
        let c = self.mean.numel();
        let sums = Tensor::concat(&[&d_sum.to_dtype(dtype)?, &d_dot.to_dtype(dtype)?], 0)?;
        group.all_reduce(&sums, Reduction::Sum)?;
        let means = sums.div(&self.count)?;
        let (d_mean, d_dot) = (means.narrow(0, 0, c)?, means.narrow(0, c, c)?);
        let inv_std = self.var.affine(1.0, eps)?.powf(-0.5)?;
        let scale = weight.detach().to_dtype(dtype)?.mul(&inv_std)?.neg()?;
        let centred = x.detach().to_dtype(dtype)?.sub(&self.mean)?;
        let through = centred.mul(&scale.mul(&inv_std)?.mul(&d_dot)?)?.add(&scale.mul(&d_mean)?)?;
        dx.add(&through.to_dtype(dx.dtype())?)
    }
}
