//! Layer norm and RMS norm of rows.
use super::elementary::Elementary;
use super::parallel::{GRAIN, Shared, for_each_task};
use super::reduce::column_sums;
use super::softmax::fold;
use super::vectorized::vectorized;

/// Rows of `n` are divided by their root mean square, after their mean is taken off when `centre`.
#[derive(Clone, Copy)]
pub struct RowNorm {
    /// Elements of a row.
    pub n: usize,
    /// Layer norm; without it RMS norm.
    pub centre: bool,
    /// Added to the mean square.
    pub eps: f64,
}

impl RowNorm {
    /// `y = (x - mean) * inv * weight + bias`; `stats` receives mean and inv of each row.
    pub fn forward<T: Elementary>(
        &self,
        x: &[T],
        weight: Option<&[T]>,
        bias: Option<&[T]>,
        y: &mut [T],
        stats: &mut [T],
    ) {
        let n = self.n;
        let (y, stats) = (Shared::new(y), Shared::new(stats));
        self.for_rows(x.len(), |r| {
            let x = &x[r * n..][..n];
            let mean = if self.centre { row_sum(x).to_f64() / n as f64 } else { 0.0 };
            let square = row_square(x, T::from_f64(mean)).to_f64() / n as f64;
            let inv = 1.0 / (square + self.eps).sqrt();
            let (mean, inv) = (T::from_f64(mean), T::from_f64(inv));
            // SAFETY: each row belongs to one task.
            let (y, stats) = unsafe { (y.slice(r * n, n), stats.slice(2 * r, 2)) };
            stats.copy_from_slice(&[mean, inv]);
            normalise_row(x, mean, inv, y);
            if let Some(w) = weight {
                y.iter_mut().zip(w).for_each(|(y, w)| *y *= *w);
            }
            if let Some(b) = bias {
                y.iter_mut().zip(b).for_each(|(y, b)| *y += *b);
            }
        });
    }

    /// `dx = inv * (g - mean(g) - x̂ * mean(g x̂))` with `g = dy * weight`, without `mean(g)` for RMS norm.
    pub fn backward<T: Elementary>(
        &self,
        x: &[T],
        dy: &[T],
        weight: Option<&[T]>,
        stats: &[T],
        dx: &mut [T],
    ) {
        let n = self.n;
        let dx = Shared::new(dx);
        self.for_rows(x.len(), |r| {
            // SAFETY: each row belongs to one task.
            let dx = unsafe { dx.slice(r * n, n) };
            dx.copy_from_slice(&dy[r * n..][..n]);
            if let Some(w) = weight {
                dx.iter_mut().zip(w).for_each(|(g, w)| *g *= *w);
            }
            row_backward(&x[r * n..][..n], stats[2 * r], stats[2 * r + 1], self.centre, dx);
        });
    }

    /// `dy * x̂`, whose column sums are the weight's gradient.
    pub fn weight_gradient<T: Elementary>(&self, x: &[T], dy: &[T], stats: &[T], dw: &mut [T]) {
        let n = self.n;
        let mut products = vec![T::zero(); x.len()];
        let out = Shared::new(&mut products);
        self.for_rows(x.len(), |r| {
            // SAFETY: each row belongs to one task.
            let p = unsafe { out.slice(r * n, n) };
            normalise_row(&x[r * n..][..n], stats[2 * r], stats[2 * r + 1], p);
            p.iter_mut().zip(&dy[r * n..]).for_each(|(p, dy)| *p *= *dy);
        });
        column_sums(&products, n, dw);
    }

    fn for_rows(&self, len: usize, f: impl Fn(usize) + Sync + Send) {
        let (rows, per_task) = (len / self.n, (GRAIN / self.n).max(1));
        for_each_task(rows.div_ceil(per_task), |t| (t * per_task..rows.min((t + 1) * per_task)).for_each(&f));
    }
}

vectorized! {
    fn row_sum<T: Elementary>(x: &[T]) -> T {
        fold(x, T::zero(), |a, b| a + b)
    }
}

vectorized! {
    fn row_square<T: Elementary>(x: &[T], mean: T) -> T {
        let mut lanes = [T::zero(); 16];
        for x in x.chunks(16) {
            for l in 0..x.len() {
                lanes[l] += (x[l] - mean) * (x[l] - mean);
            }
        }
        lanes.iter().fold(T::zero(), |a, b| a + *b)
    }
}

vectorized! {
    fn normalise_row<T: Elementary>(x: &[T], mean: T, inv: T, y: &mut [T]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = (*x - mean) * inv;
        }
    }
}

vectorized! {
    /// `dx` holds g and receives the gradient.
    fn row_backward<T: Elementary>(x: &[T], mean: T, inv: T, centre: bool, dx: &mut [T]) {
        let n = T::from_f64(x.len() as f64);
        let (mut lanes_g, mut lanes_p) = ([T::zero(); 16], [T::zero(); 16]);
        for (g, x) in dx.chunks(16).zip(x.chunks(16)) {
            for l in 0..g.len() {
                lanes_g[l] += g[l];
                lanes_p[l] += g[l] * (x[l] - mean);
            }
        }
        let sum = |lanes: &[T; 16]| lanes.iter().fold(T::zero(), |a, b| a + *b);
        let mean_g = if centre { sum(&lanes_g) / n } else { T::zero() };
        let k = inv * inv * sum(&lanes_p) / n;
        for (g, x) in dx.iter_mut().zip(x) {
            *g = inv * (*g - mean_g - (*x - mean) * k);
        }
    }
}
