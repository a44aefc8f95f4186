//! Softmax cross entropy with label smoothing over rows of logits.
use super::parallel::{GRAIN, Shared, for_each_task};
use crate::dtype::Real;

/// The mean loss over rows; `log_sums[row]` receives `log(sum(exp(row)))`, which backward needs.
pub fn forward<T: Real>(x: &[T], target: &[i64], smoothing: f64, log_sums: &mut [T]) -> f64 {
    let (n, classes) = (target.len(), x.len() / target.len());
    let mut losses = vec![0.0f64; n];
    let (out, sums) = (Shared::new(&mut losses), Shared::new(log_sums));
    for_each_row(n, classes, |row| {
        let x = &x[row * classes..][..classes];
        let max = x.iter().fold(T::neg_infinity(), |m, v| if *v > m { *v } else { m });
        let sum: T = x.iter().map(|v| (*v - max).exp()).sum();
        let log_sum = max + sum.ln();
        let nll = (log_sum - x[target[row] as usize]).to_f64();
        let uniform = match smoothing {
            0.0 => 0.0,
            _ => log_sum.to_f64() - x.iter().map(|v| v.to_f64()).sum::<f64>() / classes as f64,
        };
        // SAFETY: each row belongs to one task.
        unsafe {
            sums.slice(row, 1)[0] = log_sum;
            out.slice(row, 1)[0] = (1.0 - smoothing) * nll + smoothing * uniform;
        }
    });
    losses.iter().sum::<f64>() / n as f64
}

/// `dx = (softmax(x) - smoothed one-hot) * scale / rows`.
pub fn backward<T: Real>(x: &[T], target: &[i64], smoothing: f64, log_sums: &[T], scale: f64, dx: &mut [T]) {
    let (n, classes) = (target.len(), x.len() / target.len());
    let scale = T::from_f64(scale / n as f64);
    let (on, off) = (T::from_f64(1.0 - smoothing), T::from_f64(smoothing / classes as f64));
    let out = Shared::new(dx);
    for_each_row(n, classes, |row| {
        // SAFETY: each row belongs to one task.
        let dx = unsafe { out.slice(row * classes, classes) };
        for (dx, x) in dx.iter_mut().zip(&x[row * classes..]) {
            *dx = ((*x - log_sums[row]).exp() - off) * scale;
        }
        dx[target[row] as usize] -= on * scale;
    });
}

/// Runs `f(row)` over rows of logits, in tasks of about a grain of work.
pub fn for_each_row(n: usize, classes: usize, f: impl Fn(usize) + Sync + Send) {
    // An exponential costs about as much as sixteen additions.
    let rows = (GRAIN / 16 / classes.max(1)).max(1);
    for_each_task(n.div_ceil(rows), |task| (task * rows..n.min((task + 1) * rows)).for_each(&f));
}
