//! What an update knows of gradients before a rule sees them: their norm, overflow, the loss scale, and how they are clipped.
use super::optimizer::OptimizerParameter;
use super::parallel::{DisjointSlice, for_each_task};
use crate::ops::{GradClip, GradientRule, UpdateScalar};

/// Sums of squares of gradients, unscaled: of all, and of what clipping elements or rows leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Squares {
    /// Infinite or NaN where a gradient is.
    pub all: f64,
    /// Never more.
    pub clipped: f64,
}

/// Looks at all gradients, `tasks` of (parameter, chunk), and fills `units`: what the gradient of each row is multiplied by. The kernels
/// `gradients_look` do the same.
pub(crate) fn look(
    parameters: &[OptimizerParameter],
    tasks: &[(usize, usize)],
    first_rows: &[usize],
    factor: f64,
    clip: Option<GradClip>,
    units: &mut [f32],
) -> Squares {
    let mut partial = vec![Squares::default(); tasks.len()];
    let (shared, units) = (DisjointSlice::new(&mut partial), DisjointSlice::new(units));
    for_each_task(tasks.len(), |i| {
        let (p, chunk) = tasks[i];
        let (parameter, range) = (&parameters[p], parameters[p].range(chunk));
        // SAFETY: one element a task.
        let sum = &mut unsafe { shared.slice(i, 1) }[0];
        if let Some(GradClip::Agc(limit)) = clip {
            let length = parameter.layout.row_length;
            for row in range.start / length..range.end / length {
                let at = row * length..(row + 1) * length;
                let squares = squares(&parameter.gradient[at.clone()], factor);
                let most = limit * (squares_of(&parameter.weights[at]).sqrt() as f32).max(1e-3);
                let norm = squares.sqrt() as f32;
                let within = !parameter.adaptive_clip || norm < most;
                let unit = if within { 1.0 } else { most / norm.max(1e-6) };
                // SAFETY: a row belongs to one chunk.
                let place = unsafe { units.slice(first_rows[p] + row, 1) };
                place[0] = unit;
                sum.all += squares;
                sum.clipped += squares * f64::from(unit) * f64::from(unit);
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
    let add = |a: Squares, b: &Squares| Squares { all: a.all + b.all, clipped: a.clipped + b.clipped };
    partial.iter().fold(Squares::default(), add)
}

/// Sets what the next update does, given what a look saw: the factor of all gradients, the loss scale and its counter; false when the
/// update is skipped.
pub fn decide(gradients: &GradientRule, squares: Squares, numbers: &mut [f32]) -> bool {
    let at = |n: UpdateScalar| n as usize;
    let scale = numbers[at(UpdateScalar::LossScale)];
    let (mut factor, norm) = (1.0 / f64::from(scale), squares.all.sqrt());
    let mut left = squares.clipped.sqrt();
    numbers[at(UpdateScalar::GradNorm)] = norm as f32;
    if let Some(GradClip::Norm(limit)) = gradients.clip {
        let clip = (f64::from(limit) / (norm + 1e-6)).min(1.0);
        factor *= clip;
        left *= clip;
    }
    let mut skip = false;
    if let Some(scaling) = &gradients.scaling {
        skip = !squares.all.is_finite();
        let good = if skip { 0 } else { numbers[at(UpdateScalar::GrowthTracker)] as u32 + 1 };
        let grows = good >= scaling.growth_interval;
        numbers[at(UpdateScalar::LossScale)] = match skip {
            true => (scale * scaling.backoff_factor).max(scaling.min_scale),
            false if grows && (scale * scaling.growth_factor).is_finite() => scale * scaling.growth_factor,
            false => scale,
        };
        numbers[at(UpdateScalar::GrowthTracker)] = if grows { 0.0 } else { good as f32 };
    }
    numbers[at(UpdateScalar::GradFactor)] = factor as f32;
    numbers[at(UpdateScalar::Skip)] = f32::from(u8::from(skip));
    numbers[at(UpdateScalar::ClippedNorm)] = left as f32;
    !skip
}

fn squares_of(x: &[f32]) -> f64 {
    squares(x, 1.0)
}

/// The sum of `(g * factor)^2`.
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

/// The same where no `g * factor` is further from 0 than the limit.
fn clamped_squares(gradient: &[f32], factor: f64, limit: f64) -> f64 {
    gradient.iter().map(|g| (f64::from(*g) * factor).clamp(-limit, limit)).map(|g| g * g).sum()
}
