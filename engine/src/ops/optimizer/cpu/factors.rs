//! Factored second moment of Adafactor: means over the last axis (`lines`) and over the first axis (`columns`).
use super::parameter::OptimizerParameter;
use crate::cpu::parallel::{DisjointSlice, for_each_task};
use crate::fuse::{ChunkLayout, Factoring};
use std::ops::Range;

/// How gradients are unscaled and clipped.
pub(super) struct ClippedGradients<'a> {
    /// Factor of all gradients.
    pub(super) factor: f32,
    /// Limit of clipping by value; infinite without it.
    pub(super) clip: f32,
    /// AGC factor of each row of all parameters; empty without AGC.
    pub(super) agc_factors: &'a [f32],
    /// Index of each parameter's first row.
    pub(super) first_rows: &'a [usize],
}

/// Updates the factored second moments. Returns their means over both axes, one per position in between; empty for parameters that are
/// not factored. The `factor_moments` CUDA kernel does the same.
pub(super) fn update_factors(
    parameters: &mut [OptimizerParameter],
    factoring: Factoring,
    step: i64,
    gradients: &ClippedGradients,
) -> Vec<Vec<f32>> {
    let weight = (step as f64).powf(factoring.decay_rate) as f32;
    let eps = factoring.eps as f32;
    let ClippedGradients { factor, clip, agc_factors, first_rows } = *gradients;
    let mut means = vec![vec![]; parameters.len()];
    let (all, shared) = (DisjointSlice::new(parameters), DisjointSlice::new(&mut means));
    for_each_task(first_rows.len(), |p| {
        // SAFETY: each task has one parameter and its means.
        let (parameter, means) = unsafe { (&mut all.slice(p, 1)[0], &mut shared.slice(p, 1)[0]) };
        let ChunkLayout { row_length, rows, inner, .. } = parameter.layout;
        let Some([lines, columns]) = &mut parameter.factors else { return };
        let mut sums = vec![0.0f32; row_length];
        for (row, gradient) in parameter.gradient.chunks(row_length).enumerate() {
            let agc_factor = agc_factors.get(first_rows[p] + row).copied().unwrap_or(1.0);
            for (b, line) in gradient.chunks(inner).enumerate() {
                let mut sum = 0.0;
                for (g, of_column) in line.iter().zip(&mut sums[b * inner..]) {
                    let g = agc_factor * (factor * g).clamp(-clip, clip);
                    sum += f64::from(g * g);
                    *of_column += g * g;
                }
                let mean = &mut lines[row * (row_length / inner) + b];
                *mean += weight * ((sum / inner as f64) as f32 + eps - *mean);
            }
        }
        for (mean, sum) in columns.iter_mut().zip(&sums) {
            *mean += weight * (sum / rows as f32 + eps - *mean);
        }
        let mean = |line: &[f32]| (line.iter().map(|c| f64::from(*c)).sum::<f64>() / inner as f64) as f32;
        *means = columns.chunks(inner).map(mean).collect();
    });
    means
}

/// Reconstructs elements `at` of the second moment: `lines / mean * columns`.
pub(super) fn reconstruct(
    [lines, columns]: [&[f32]; 2],
    means: &[f32],
    layout: &ChunkLayout,
    at: Range<usize>,
    y: &mut [f32],
) {
    for (y, i) in y.iter_mut().zip(at) {
        let line = i / layout.inner;
        *y = lines[line] / means[line % means.len()] * columns[i % layout.row_length];
    }
}
