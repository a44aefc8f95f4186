//! Gradient norm, overflow check, loss scaling and gradient clipping, before the update rule runs.
use super::parameter::OptimizerParameter;
use crate::cpu::parallel::{DisjointSlice, for_each_task};
use crate::fuse::{GradClip, GradientRule, UpdateScalar};

/// Sums of squares of the unscaled gradients, before and after clipping by value or by unit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GradSquares {
    /// Before clipping. Infinite or NaN if a gradient is.
    pub all: f64,
    /// After clipping by value or by unit (AGC); never larger.
    pub clipped: f64,
}

/// Computes the sums of squares of all gradients, in `tasks` of (parameter, chunk), and fills `agc_factors` with the AGC factor of each row.
/// The `gradient_norm` CUDA kernels do the same.
pub(crate) fn compute_squares(
    parameters: &[OptimizerParameter],
    tasks: &[(usize, usize)],
    first_rows: &[usize],
    factor: f64,
    clip: Option<GradClip>,
    agc_factors: &mut [f32],
) -> GradSquares {
    let mut partial = vec![GradSquares::default(); tasks.len()];
    let (shared, agc_factors) = (DisjointSlice::new(&mut partial), DisjointSlice::new(agc_factors));
    for_each_task(tasks.len(), |i| {
        let (p, chunk) = tasks[i];
        let (parameter, range) = (&parameters[p], parameters[p].range(chunk));
        // SAFETY: one element per task.
        let sum = &mut unsafe { shared.slice(i, 1) }[0];
        if let Some(GradClip::Agc(limit)) = clip {
            let length = parameter.layout.row_length;
            for row in range.start / length..range.end / length {
                let at = row * length..(row + 1) * length;
                let squares = squares(&parameter.gradient[at.clone()], factor);
                let max_norm = limit * (squares_of(&parameter.weights[at]).sqrt() as f32).max(1e-3);
                let norm = squares.sqrt() as f32;
                let within = !parameter.adaptive_clip || norm < max_norm;
                let agc_factor = if within { 1.0 } else { max_norm / norm.max(1e-6) };
                // SAFETY: a row belongs to one chunk.
                let place = unsafe { agc_factors.slice(first_rows[p] + row, 1) };
                place[0] = agc_factor;
                sum.all += squares;
                sum.clipped += squares * f64::from(agc_factor) * f64::from(agc_factor);
            }
        } else {
            sum.all = squares(&parameter.gradient[range.clone()], factor);
            sum.clipped = match clip {
                Some(GradClip::Value(limit)) => {
                    clamped_squares(&parameter.gradient[range], factor, limit.into())
                }
                _ => sum.all,
            };
        }
    });
    // In the order of the tasks.
    let add =
        |a: GradSquares, b: &GradSquares| GradSquares { all: a.all + b.all, clipped: a.clipped + b.clipped };
    partial.iter().fold(GradSquares::default(), add)
}

/// Sets the scalars of the next update from the gradient norms: the common factor of all gradients, the loss scale and its growth
/// counter. Returns false if the update is skipped because of an overflow.
pub fn update_loss_scale(gradients: &GradientRule, squares: GradSquares, scalars: &mut [f32]) -> bool {
    let at = |n: UpdateScalar| n as usize;
    let scale = scalars[at(UpdateScalar::LossScale)];
    let (mut factor, norm) = (1.0 / f64::from(scale), squares.all.sqrt());
    let mut clipped_norm = squares.clipped.sqrt();
    scalars[at(UpdateScalar::GradNorm)] = norm as f32;
    if let Some(GradClip::Norm(limit)) = gradients.clip {
        let clip = (f64::from(limit) / (norm + 1e-6)).min(1.0);
        factor *= clip;
        clipped_norm *= clip;
    }
    let mut skip = false;
    if let Some(scaling) = &gradients.scaling {
        skip = !squares.all.is_finite();
        let good = if skip { 0 } else { scalars[at(UpdateScalar::GrowthTracker)] as u32 + 1 };
        let grows = good >= scaling.growth_interval;
        scalars[at(UpdateScalar::LossScale)] = match skip {
            true => (scale * scaling.backoff_factor).max(scaling.min_scale),
            false if grows && (scale * scaling.growth_factor).is_finite() => scale * scaling.growth_factor,
            false => scale,
        };
        scalars[at(UpdateScalar::GrowthTracker)] = if grows { 0.0 } else { good as f32 };
    }
    scalars[at(UpdateScalar::GradFactor)] = factor as f32;
    scalars[at(UpdateScalar::Skip)] = f32::from(u8::from(skip));
    scalars[at(UpdateScalar::ClippedNorm)] = clipped_norm as f32;
    !skip
}

fn squares_of(x: &[f32]) -> f64 {
    squares(x, 1.0)
}

/// Sum of `(g * factor)^2`.
fn squares(gradient: &[f32], factor: f64) -> f64 {
    let mut lanes = [0.0f64; 16];
    let (groups, rest) = gradient.as_chunks::<16>();
    for group in groups.iter().map(|group| &group[..]).chain([rest]) {
        for (lane, g) in lanes.iter_mut().zip(group) {
            let g = f64::from(*g) * factor;
            *lane += g * g;
        }
    }
    lanes.iter().sum()
}

/// Sum of `clamp(g * factor, -limit, limit)^2`.
fn clamped_squares(gradient: &[f32], factor: f64, limit: f64) -> f64 {
    gradient.iter().map(|g| (f64::from(*g) * factor).clamp(-limit, limit)).map(|g| g * g).sum()
}
