//! Softmax cross entropy of rows of logits, with label smoothing.
use crate::cpu::elementary::Elementary;
use crate::cpu::fold::max_of;
use crate::cpu::parallel::{DisjointSlice, GRAIN, for_each_task};
use crate::cpu::vectorized::vectorized;

/// Mean loss over rows. `log_sums[row]` receives `log(sum(exp(row)))` for [`backward`].
pub fn forward<T: Elementary>(x: &[T], target: &[i64], smoothing: f64, log_sums: &mut [T]) -> f64 {
    let (n, classes) = (target.len(), x.len() / target.len());
    let mut losses = vec![0.0f64; n];
    let (out, sums) = (DisjointSlice::new(&mut losses), DisjointSlice::new(log_sums));
    for_each_row(n, classes, |row| {
        let x = &x[row * classes..][..classes];
        let log_sum = log_sum_exp(x);
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
pub fn backward<T: Elementary>(
    x: &[T],
    target: &[i64],
    smoothing: f64,
    log_sums: &[T],
    scale: f64,
    dx: &mut [T],
) {
    let (n, classes) = (target.len(), x.len() / target.len());
    let scale = T::from_f64(scale / n as f64);
    let (on, off) = (T::from_f64(1.0 - smoothing), T::from_f64(smoothing / classes as f64));
    let out = DisjointSlice::new(dx);
    for_each_row(n, classes, |row| {
        // SAFETY: each row belongs to one task.
        let dx = unsafe { out.slice(row * classes, classes) };
        softmax_difference(&x[row * classes..][..classes], log_sums[row], off, scale, dx);
        dx[target[row] as usize] -= on * scale;
    });
}

/// Number of rows whose target is the top-1 class, and among the top `k` classes. Of equal logits, the lower class ranks first.
pub fn top_k_counts<T: Elementary>(x: &[T], target: &[i64], k: usize) -> [i64; 2] {
    let (n, classes) = (target.len(), x.len() / target.len());
    let mut ranks = vec![0; n];
    let out = DisjointSlice::new(&mut ranks);
    for_each_row(n, classes, |row| {
        // SAFETY: each row belongs to one task.
        unsafe { out.slice(row, 1)[0] = rank(&x[row * classes..][..classes], target[row] as usize) };
    });
    [1, k].map(|k| ranks.iter().filter(|rank| **rank < k).count() as i64)
}

/// Runs `f(row)` over rows of logits, in tasks of about [`GRAIN`] additions of work.
pub fn for_each_row(n: usize, classes: usize, f: impl Fn(usize) + Sync + Send) {
    // An exponential costs about as much as sixteen additions.
    let rows = (GRAIN / 16 / classes.max(1)).max(1);
    for_each_task(n.div_ceil(rows), |task| (task * rows..n.min((task + 1) * rows)).for_each(&f));
}

vectorized! {
    /// `log(sum(e^x))` of a row, in a fixed order of sixteen interleaved sums.
    pub wide fn log_sum_exp<T: Elementary>(x: &[T]) -> T {
        let max = max_of(x);
        let mut lanes = [T::zero(); 16];
        let mut groups = x.chunks_exact(16);
        for group in &mut groups {
            for l in 0..16 {
                lanes[l] += (group[l] - max).fast_exp();
            }
        }
        let tail = groups.remainder().iter().fold(T::zero(), |sum, v| sum + (*v - max).fast_exp());
        max + lanes.iter().fold(tail, |sum, v| sum + *v).ln()
    }
}

vectorized! {
    /// Rank of the target: the number of logits that rank before it.
    fn rank<T: Elementary>(x: &[T], target: usize) -> usize {
        let target_logit = x[target];
        let or_equal = x[..target].iter().map(|v| usize::from(*v >= target_logit)).sum::<usize>();
        or_equal + x[target..].iter().map(|v| usize::from(*v > target_logit)).sum::<usize>()
    }
}

vectorized! {
    /// `dx = (e^(x - log_sum) - off) * scale`.
    wide fn softmax_difference<T: Elementary>(x: &[T], log_sum: T, off: T, scale: T, dx: &mut [T]) {
        for (dx, x) in dx.iter_mut().zip(x) {
            *dx = ((*x - log_sum).fast_exp() - off) * scale;
        }
    }
}
