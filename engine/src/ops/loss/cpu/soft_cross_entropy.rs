//! Soft-target cross entropy and binary cross entropy with logits.
use super::cross_entropy::{for_each_row, log_sum_exp};
use crate::cpu::elementary::Elementary;
use crate::cpu::parallel::{DisjointSlice, GRAIN, for_each_piece, for_each_task};
use crate::cpu::vectorized::vectorized;

/// Mean over rows of `-sum(t * log softmax(x))`. `log_sums[row]` receives `log(sum(exp(row)))` for [`soft_backward`].
pub fn soft_forward<T: Elementary>(x: &[T], target: &[T], log_sums: &mut [T]) -> f64 {
    let (n, classes) = (log_sums.len(), x.len() / log_sums.len());
    let mut losses = vec![0.0f64; n];
    let (out, sums) = (DisjointSlice::new(&mut losses), DisjointSlice::new(log_sums));
    for_each_row(n, classes, |row| {
        let (x, t) = (&x[row * classes..][..classes], &target[row * classes..][..classes]);
        let log_sum = log_sum_exp(x);
        let loss = soft_row(x, t, log_sum).to_f64();
        // SAFETY: each row belongs to one task.
        unsafe {
            sums.slice(row, 1)[0] = log_sum;
            out.slice(row, 1)[0] = loss;
        }
    });
    losses.iter().sum::<f64>() / n as f64
}

/// Most probable class of each of `n` rows; of equal classes the lowest.
pub fn argmax_rows<T: Elementary>(target: &[T], n: usize) -> Vec<i64> {
    let best = |row: &[T]| (1..row.len()).fold(0, |best, j| if row[j] > row[best] { j } else { best });
    target.chunks_exact(target.len() / n).map(|row| best(row) as i64).collect()
}

/// `dx = (softmax(x) * sum(t) - t) * scale / rows`.
pub fn soft_backward<T: Elementary>(x: &[T], target: &[T], log_sums: &[T], scale: f64, dx: &mut [T]) {
    let (n, classes) = (log_sums.len(), x.len() / log_sums.len());
    let scale = T::from_f64(scale / n as f64);
    let out = DisjointSlice::new(dx);
    for_each_row(n, classes, |row| {
        let (x, t) = (&x[row * classes..][..classes], &target[row * classes..][..classes]);
        // SAFETY: each row belongs to one task.
        let dx = unsafe { out.slice(row * classes, classes) };
        soft_row_backward(x, t, log_sums[row], scale, dx);
    });
}

/// Sum over all elements of the binary cross entropy of `sigmoid(x)` against `t`.
pub fn binary_forward<T: Elementary>(x: &[T], target: &[T], pos_weight: f64) -> f64 {
    let extra = T::from_f64(pos_weight - 1.0);
    let pieces = x.len().div_ceil(GRAIN);
    let mut partial = vec![0.0f64; pieces];
    let out = DisjointSlice::new(&mut partial);
    for_each_task(pieces, |i| {
        let range = i * GRAIN..x.len().min((i + 1) * GRAIN);
        // SAFETY: one element per task.
        unsafe { out.slice(i, 1)[0] = binary_piece(&x[range.clone()], &target[range], extra).to_f64() };
    });
    partial.iter().sum()
}

/// `dx = ((1 - t) - (1 + (pos_weight - 1) t) * sigmoid(-x)) * scale`.
pub fn binary_backward<T: Elementary>(x: &[T], target: &[T], pos_weight: f64, scale: f64, dx: &mut [T]) {
    let (extra, scale) = (T::from_f64(pos_weight - 1.0), T::from_f64(scale));
    for_each_piece(dx, |start, dx| {
        let end = start + dx.len();
        binary_piece_backward(&x[start..end], &target[start..end], extra, scale, dx);
    });
}

/// Sum of `f(x, t)` over pairs: sixteen interleaved sums over blocks of 1,024 terms, added in f64. Terms are buffered, so that computing
/// them is a plain loop without bounds checks.
#[inline(always)]
fn sum_of<T: Elementary>(x: &[T], t: &[T], f: impl Fn(T, T) -> T) -> T {
    let mut terms = [T::zero(); 1024];
    let mut total = 0.0;
    for (x, t) in x.chunks(terms.len()).zip(t.chunks(terms.len())) {
        let terms = &mut terms[..x.len()];
        for ((term, x), t) in terms.iter_mut().zip(x).zip(t) {
            *term = f(*x, *t);
        }
        let mut lanes = [T::zero(); 16];
        for group in terms.chunks(16) {
            for (lane, term) in lanes.iter_mut().zip(group) {
                *lane += *term;
            }
        }
        total += lanes.iter().map(|v| v.to_f64()).sum::<f64>();
    }
    T::from_f64(total)
}

vectorized! {
    wide fn soft_row<T: Elementary>(x: &[T], t: &[T], log_sum: T) -> T {
        sum_of(x, t, |x, t| t * (log_sum - x))
    }
}

vectorized! {
    wide fn soft_row_backward<T: Elementary>(x: &[T], t: &[T], log_sum: T, scale: T, dx: &mut [T]) {
        let target_sum = sum_of(t, t, |t, _| t);
        for ((dx, x), t) in dx.iter_mut().zip(x).zip(t) {
            *dx = ((*x - log_sum).fast_exp() * target_sum - *t) * scale;
        }
    }
}

vectorized! {
    wide fn binary_piece<T: Elementary>(x: &[T], t: &[T], extra: T) -> T {
        sum_of(x, t, |x, t| {
            // softplus(-x), in the form in which the exponential does not overflow.
            let softplus = (-x.abs()).fast_exp().fast_ln_1p() + if x < T::zero() { -x } else { T::zero() };
            (T::one() - t) * x + (T::one() + extra * t) * softplus
        })
    }
}

vectorized! {
    wide fn binary_piece_backward<T: Elementary>(x: &[T], t: &[T], extra: T, scale: T, dx: &mut [T]) {
        for ((dx, x), t) in dx.iter_mut().zip(x).zip(t) {
            let sigmoid = T::one() / (T::one() + x.fast_exp());
            *dx = ((T::one() - *t) - (T::one() + extra * *t) * sigmoid) * scale;
        }
    }
}
