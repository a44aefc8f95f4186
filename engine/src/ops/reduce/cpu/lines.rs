//! Operations along one axis of `[outer, n, inner]`: max, min, argmax, argmin, gather, scatter_add, top-k, cumsum, prod. A line is the
//! `n` elements with the same outer and inner index.
use crate::Element;
use crate::cpu::elementary::Elementary;
use crate::cpu::fold::fold;
use crate::cpu::parallel::{DisjointSlice, GRAIN, for_each_task};
use crate::cpu::vectorized::vectorized;
use crate::dtype::Real;
use crate::ops::reduce::Lines;

impl Lines {
    /// Offset of a line's first element.
    fn start(&self, line: usize) -> usize {
        line / self.inner * self.n * self.inner + line % self.inner
    }

    /// Runs `f(line, offset of its first element)` over all lines, in tasks of about [`GRAIN`] elements.
    pub fn for_each(&self, f: impl Fn(usize, usize) + Sync + Send) {
        let per_task = (GRAIN / self.n.max(1)).max(1);
        let count = self.count();
        for_each_task(count.div_ceil(per_task), |task| {
            for line in task * per_task..count.min((task + 1) * per_task) {
                f(line, self.start(line));
            }
        });
    }
}

/// Index of the maximum (or minimum) of each line; the first of equal elements. NaN counts as the extreme.
pub fn arg_extreme<T: Real>(lines: Lines, x: &[T], smallest: bool, index: &mut [i64]) {
    let out = DisjointSlice::new(index);
    lines.for_each(|line, start| {
        let (mut at, mut best) = (0, x[start]);
        for j in 1..lines.n {
            let v = x[start + j * lines.inner];
            let better = if smallest { v < best } else { v > best };
            if better || (v.is_nan() && !best.is_nan()) {
                (at, best) = (j, v);
            }
        }
        // SAFETY: each line belongs to one task.
        unsafe { out.slice(line, 1)[0] = at as i64 };
    });
}

/// Maximum (or minimum) of each line; NaN if the line contains NaN.
pub fn extreme<T: Elementary>(lines: Lines, x: &[T], smallest: bool, y: &mut [T]) {
    let out = DisjointSlice::new(y);
    let (n, inner) = (lines.n, lines.inner);
    if inner == 1 {
        return lines.for_each(|line, start| {
            let value = row_extreme(&x[start..start + n], smallest);
            // SAFETY: each line belongs to one task.
            unsafe { out.slice(line, 1)[0] = value };
        });
    }
    for_each_task(lines.outer, |o| {
        // SAFETY: each block of lines belongs to one task.
        let y = unsafe { out.slice(o * inner, inner) };
        y.copy_from_slice(&x[o * n * inner..][..inner]);
        for j in 1..n {
            update_extreme(&x[(o * n + j) * inner..][..inner], smallest, y);
        }
    });
}

vectorized! {
    fn row_extreme<T: Elementary>(x: &[T], smallest: bool) -> T {
        if smallest { fold(x, T::infinity(), lesser) } else { fold(x, T::neg_infinity(), greater) }
    }
}

vectorized! {
    fn update_extreme<T: Elementary>(x: &[T], smallest: bool, y: &mut [T]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = if smallest { lesser(*y, *x) } else { greater(*y, *x) };
        }
    }
}

/// Maximum; NaN if either is NaN.
#[inline(always)]
fn greater<T: Elementary>(a: T, b: T) -> T {
    if a > b || a.is_nan() { a } else { b }
}

/// Minimum; NaN if either is NaN.
#[inline(always)]
fn lesser<T: Elementary>(a: T, b: T) -> T {
    if a < b || a.is_nan() { a } else { b }
}

/// `y[line, j] = x[line, index[line, j]]`, with `k` indices a line.
pub fn gather<T: Element>(lines: Lines, x: &[T], index: &[i64], k: usize, y: &mut [T]) {
    let out = DisjointSlice::new(y);
    let output_lines = Lines { n: k, ..lines };
    output_lines.for_each(|line, start| {
        let from = lines.start(line);
        for j in 0..k {
            let at = start + j * lines.inner;
            // SAFETY: each line belongs to one task.
            unsafe { out.slice(at, 1)[0] = x[from + index[at] as usize * lines.inner] };
        }
    });
}

/// Transpose of [`gather`]: zeroes `y`, then `y[line, index[line, j]] += x[line, j]` in order of `j`.
pub fn scatter_add<T: Real>(lines: Lines, x: &[T], index: &[i64], k: usize, y: &mut [T]) {
    y.fill(T::zero());
    let out = DisjointSlice::new(y);
    let output_lines = Lines { n: k, ..lines };
    output_lines.for_each(|line, start| {
        let to = lines.start(line);
        for j in 0..k {
            let at = start + j * lines.inner;
            // SAFETY: each line belongs to one task.
            unsafe { out.slice(to + index[at] as usize * lines.inner, 1)[0] += x[at] };
        }
    });
}

/// Indices of the `k` largest (or smallest) elements of each line in sorted order; of equal elements the lower index comes first.
pub fn top_k<T: Real>(lines: Lines, x: &[T], k: usize, smallest: bool, index: &mut [i64]) {
    let out = DisjointSlice::new(index);
    let output_lines = Lines { n: k, ..lines };
    lines.for_each(|line, start| {
        let value = |j: &usize| x[start + j * lines.inner];
        let mut order: Vec<usize> = (0..lines.n).collect();
        let best_first = |a: &usize, b: &usize| {
            let (va, vb) = (value(a), value(b));
            let by_value = if smallest { va.partial_cmp(&vb) } else { vb.partial_cmp(&va) };
            // NaN counts as the largest, as in PyTorch.
            by_value
                .unwrap_or_else(|| {
                    let order = vb.is_nan().cmp(&va.is_nan());
                    if smallest { order.reverse() } else { order }
                })
                .then(a.cmp(b))
        };
        if k < lines.n && k > 0 {
            order.select_nth_unstable_by(k - 1, best_first);
        }
        order[..k].sort_unstable_by(best_first);
        let to = output_lines.start(line);
        for (j, at) in order[..k].iter().enumerate() {
            // SAFETY: each line belongs to one task.
            unsafe { out.slice(to + j * lines.inner, 1)[0] = *at as i64 };
        }
    });
}

/// Cumulative sum of each line, accumulated in f64; from the last element backwards if `reverse`.
pub fn cumsum<T: Real>(lines: Lines, x: &[T], reverse: bool, y: &mut [T]) {
    let out = DisjointSlice::new(y);
    lines.for_each(|_, start| {
        let mut sum = 0.0f64;
        for j in 0..lines.n {
            let at = start + if reverse { lines.n - 1 - j } else { j } * lines.inner;
            sum += x[at].to_f64();
            // SAFETY: each line belongs to one task.
            unsafe { out.slice(at, 1)[0] = T::from_f64(sum) };
        }
    });
}

/// Product of each line, accumulated in f64.
pub fn prod<T: Real>(lines: Lines, x: &[T], y: &mut [T]) {
    let out = DisjointSlice::new(y);
    lines.for_each(|line, start| {
        let product: f64 = (0..lines.n).map(|j| x[start + j * lines.inner].to_f64()).product();
        // SAFETY: each line belongs to one task.
        unsafe { out.slice(line, 1)[0] = T::from_f64(product) };
    });
}

/// `dx[line, j] = dy[line] * product of the line's other elements`, without division, so that zeros are allowed.
pub fn prod_backward<T: Real>(lines: Lines, x: &[T], dy: &[T], dx: &mut [T]) {
    let out = DisjointSlice::new(dx);
    lines.for_each(|line, start| {
        let at = |j: usize| start + j * lines.inner;
        let mut before = dy[line].to_f64();
        let mut after: Vec<f64> = vec![1.0; lines.n + 1];
        for j in (0..lines.n).rev() {
            after[j] = after[j + 1] * x[at(j)].to_f64();
        }
        for j in 0..lines.n {
            // SAFETY: each line belongs to one task.
            unsafe { out.slice(at(j), 1)[0] = T::from_f64(before * after[j + 1]) };
            before *= x[at(j)].to_f64();
        }
    });
}
