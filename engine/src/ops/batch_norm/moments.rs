//! Statistics of all ranks (PyTorch's `SyncBatchNorm`) on the CPU: one gather in the forward pass, one reduction in the backward pass.
use crate::{Collective, Reduction, Result, Tensor};

/// Statistics by channel.
#[derive(Default)]
pub(super) struct Moments {
    /// Number of values.
    pub(super) count: f64,
    pub(super) mean: Vec<f64>,
    /// Biased variance.
    pub(super) var: Vec<f64>,
}

impl Moments {
    /// The moments of the values of all ranks, from this rank's. The ranks may have different numbers of values.
    pub(super) fn of_all_ranks(&self, group: &dyn Collective) -> Result<Moments> {
        let c = self.mean.len();
        let m2 = self.var.iter().map(|var| var * self.count);
        let own: Vec<f64> = self.mean.iter().copied().chain(m2).chain([self.count]).collect();
        let all = group.all_gather(&Tensor::from_vec(own, [2 * c + 1])?)?.to_vec::<f64>()?;
        let ranks = || all.chunks_exact(2 * c + 1);
        let count: f64 = ranks().map(|rank| rank[2 * c]).sum();
        let mean = |j: usize| ranks().map(|rank| rank[2 * c] * rank[j]).sum::<f64>() / count;
        let mean: Vec<f64> = (0..c).map(mean).collect();
        // The squared deviations within the ranks, and those of their means.
        let m2 = |j: usize| {
            ranks().map(|rank| rank[c + j] + rank[2 * c] * (rank[j] - mean[j]).powi(2)).sum::<f64>()
        };
        let var = (0..c).map(|j| m2(j) / count).collect();
        Ok(Moments { count, mean, var })
    }
}

/// Adds two vectors of this rank to those of the others.
pub(super) fn sum_over_ranks(group: &dyn Collective, vectors: [&[f64]; 2]) -> Result<[Vec<f64>; 2]> {
    let sums = vectors.concat();
    let sums = Tensor::from_slice(&sums, [sums.len()])?;
    group.all_reduce(&sums, Reduction::Sum)?;
    let sums = sums.to_vec::<f64>()?;
    let (first, second) = sums.split_at(vectors[0].len());
    Ok([first.to_vec(), second.to_vec()])
}
