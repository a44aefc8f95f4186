//! Cross entropies against distributions.
use super::cross_entropy::for_each_row;
use super::parallel::{GRAIN, Shared, for_each_piece, for_each_task};
use crate::dtype::Real;

/// The mean over rows of `-sum(t * log softmax(x))`; `log_sums[row]` receives `log(sum(exp(row)))`.
pub fn soft_forward<T: Real>(x: &[T], target: &[T], log_sums: &mut [T]) -> f64 {
    let (n, classes) = (log_sums.len(), x.len() / log_sums.len());
    let mut losses = vec![0.0f64; n];
    let (out, sums) = (Shared::new(&mut losses), Shared::new(log_sums));
    for_each_row(n, classes, |row| {
        let (x, t) = (&x[row * classes..][..classes], &target[row * classes..][..classes]);
        let max = x.iter().fold(T::neg_infinity(), |m, v| if *v > m { *v } else { m });
        let log_sum = max + x.iter().map(|v| (*v - max).exp()).sum::<T>().ln();
        let loss: f64 = x.iter().zip(t).map(|(x, t)| (*t * (log_sum - *x)).to_f64()).sum();
        // SAFETY: each row belongs to one task.
        unsafe {
            sums.slice(row, 1)[0] = log_sum;
            out.slice(row, 1)[0] = loss;
        }
    });
    losses.iter().sum::<f64>() / n as f64
}

/// `dx = (softmax(x) * sum(t) - t) * scale / rows`.
pub fn soft_backward<T: Real>(x: &[T], target: &[T], log_sums: &[T], scale: f64, dx: &mut [T]) {
    let (n, classes) = (log_sums.len(), x.len() / log_sums.len());
    let scale = T::from_f64(scale / n as f64);
    let out = Shared::new(dx);
    for_each_row(n, classes, |row| {
        let (x, t) = (&x[row * classes..][..classes], &target[row * classes..][..classes]);
        let mass: T = t.iter().copied().sum();
        // SAFETY: each row belongs to one task.
        let dx = unsafe { out.slice(row * classes, classes) };
        for ((dx, x), t) in dx.iter_mut().zip(x).zip(t) {
            *dx = ((*x - log_sums[row]).exp() * mass - *t) * scale;
        }
    });
}

/// The sum over all elements of the binary cross entropy of `sigmoid(x)` against `t`.
pub fn binary_forward<T: Real>(x: &[T], target: &[T], pos_weight: f64) -> f64 {
    let extra = T::from_f64(pos_weight - 1.0);
    let pieces = x.len().div_ceil(GRAIN);
    let mut partial = vec![0.0f64; pieces];
    let out = Shared::new(&mut partial);
    for_each_task(pieces, |i| {
        let range = i * GRAIN..x.len().min((i + 1) * GRAIN);
        let sum = x[range.clone()].iter().zip(&target[range]).map(|(x, t)| {
            // softplus(-x), from the side on which the exponential does not overflow.
            let softplus = (-x.abs()).exp().ln_1p() + (-*x).max(T::zero());
            ((T::one() - *t) * *x + (T::one() + extra * *t) * softplus).to_f64()
        });
        // SAFETY: one element a task.
        unsafe { out.slice(i, 1)[0] = sum.sum() };
    });
    partial.iter().sum()
}

/// `dx = ((1 - t) - (1 + (pos_weight - 1) t) * sigmoid(-x)) * scale`.
pub fn binary_backward<T: Real>(x: &[T], target: &[T], pos_weight: f64, scale: f64, dx: &mut [T]) {
    let (extra, scale) = (T::from_f64(pos_weight - 1.0), T::from_f64(scale));
    for_each_piece(dx, |start, dx| {
        for ((dx, x), t) in dx.iter_mut().zip(&x[start..]).zip(&target[start..]) {
            let sigmoid = T::one() / (T::one() + x.exp());
            *dx = ((T::one() - *t) - (T::one() + extra * *t) * sigmoid) * scale;
        }
    });
}
