//! What an update knows of gradients before a rule sees them: their norm, overflow, the loss scale, and how they are clipped.
use super::optimizer::Parameter;
use super::parallel::{Shared, for_each_task};
use crate::ops::{Clip, GradientRule, Number};

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
    parameters: &[Parameter],
    tasks: &[(usize, usize)],
    first_rows: &[usize],
    factor: f64,
    clip: Option<Clip>,
    units: &mut [f32],
) -> Squares {
    let mut partial = vec![Squares::default(); tasks.len()];
    let (shared, units) = (Shared::new(&mut partial), Shared::new(units));
    for_each_task(tasks.len(), |i| {
        let (p, chunk) = tasks[i];
        let (parameter, range) = (&parameters[p], parameters[p].range(chunk));
        // SAFETY: one element a task.
        let sum = &mut unsafe { shared.slice(i, 1) }[0];
        if let Some(Clip::Units(limit)) = clip {
            let length = parameter.layout.row_length;
            for row in range.start / length..range.end / length {
                let at = row * length..(row + 1) * length;
                let squares = squares(&parameter.gradient[at.clone()], factor);
                let most = limit * (squares_of(&parameter.weights[at]).sqrt() as f32).max(1e-3);
                let norm = squares.sqrt() as f32;
                let within = !parameter.clips || norm < most;
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
                Some(Clip::Value(limit)) => clamped_squares(&parameter.gradient[range], factor, limit.into()),
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
    let at = |n: Number| n as usize;
    let scale = numbers[at(Number::LossScale)];
    let (mut factor, norm) = (1.0 / f64::from(scale), squares.all.sqrt());
    let mut left = squares.clipped.sqrt();
    numbers[at(Number::Norm)] = norm as f32;
    if let Some(Clip::Norm(limit)) = gradients.clip {
        let clip = (f64::from(limit) / (norm + 1e-6)).min(1.0);
        factor *= clip;
        left *= clip;
    }
    let mut skip = false;
    if let Some(scaling) = &gradients.scaling {
        skip = !squares.all.is_finite();
        let good = if skip { 0 } else { numbers[at(Number::GoodUpdates)] as u32 + 1 };
        let grows = good >= scaling.interval;
        numbers[at(Number::LossScale)] = match skip {
            true => (scale * scaling.backoff).max(scaling.floor),
            false if grows && (scale * scaling.growth).is_finite() => scale * scaling.growth,
            false => scale,
        };
        numbers[at(Number::GoodUpdates)] = if grows { 0.0 } else { good as f32 };
    }
    numbers[at(Number::Factor)] = factor as f32;
    numbers[at(Number::Skip)] = f32::from(u8::from(skip));
    numbers[at(Number::ClippedNorm)] = left as f32;
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
