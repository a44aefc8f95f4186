//! Layer norm and RMS norm over rows.
use crate::cpu::elementary::Elementary;
use crate::cpu::fold::fold;
use crate::cpu::parallel::{DisjointSlice, GRAIN, for_each_task};
use crate::cpu::vectorized::vectorized;

/// Layer norm or RMS norm over rows of `n` elements.
#[derive(Clone, Copy)]
pub struct RowNorm {
    /// Elements per row.
    pub n: usize,
    /// Subtract the mean: layer norm if true, RMS norm otherwise.
    pub centre: bool,
    /// Added to the variance (layer norm) or mean square (RMS norm).
    pub eps: f64,
}

impl RowNorm {
    /// `y = (x - mean) * inv_std * weight + bias`. `stats` receives mean and inv_std of each row, `[rows, 2]`. For RMS norm, mean is 0.
    pub fn forward<T: Elementary>(
        &self,
        x: &[T],
        weight: Option<&[T]>,
        bias: Option<&[T]>,
        y: &mut [T],
        stats: &mut [T],
    ) {
        let n = self.n;
        let (y, stats) = (DisjointSlice::new(y), DisjointSlice::new(stats));
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
                multiply(w, y);
            }
            if let Some(b) = bias {
                add(b, y);
            }
        });
    }

    /// `dx = inv_std * (g - mean(g) - x̂ * mean(g x̂))` with `g = dy * weight`; RMS norm omits `mean(g)`.
    pub fn backward<T: Elementary>(
        &self,
        x: &[T],
        dy: &[T],
        weight: Option<&[T]>,
        stats: &[T],
        dx: &mut [T],
    ) {
        let n = self.n;
        let dx = DisjointSlice::new(dx);
        self.for_rows(x.len(), |r| {
            // SAFETY: each row belongs to one task.
            let dx = unsafe { dx.slice(r * n, n) };
            dx.copy_from_slice(&dy[r * n..][..n]);
            if let Some(w) = weight {
                multiply(w, dx);
            }
            row_backward(&x[r * n..][..n], stats[2 * r], stats[2 * r + 1], self.centre, dx);
        });
    }

    /// Gradients of weight and bias: the column sums of `dy * x̂` and of `dy`. Chunks of rows are merged in f64.
    pub fn parameter_gradients<T: Elementary>(&self, x: &[T], dy: &[T], stats: &[T]) -> [Vec<T>; 2] {
        let n = self.n;
        let chunk = (GRAIN / n).clamp(16, 256) * n;
        let chunks = x.len().div_ceil(chunk);
        let mut partial = vec![T::zero(); chunks * 2 * n];
        let out = DisjointSlice::new(&mut partial);
        for_each_task(chunks, |i| {
            let at = i * chunk..x.len().min((i + 1) * chunk);
            // SAFETY: each chunk has its own sums.
            let (dw, db) = unsafe { out.slice(i * 2 * n, 2 * n) }.split_at_mut(n);
            add_parameter_gradients(&x[at.clone()], &dy[at.clone()], &stats[at.start / n * 2..], dw, db);
        });
        [0, 1].map(|part| {
            let total = |j: usize| partial.chunks_exact(2 * n).map(|p| p[part * n + j].to_f64()).sum::<f64>();
            (0..n).map(|j| T::from_f64(total(j))).collect()
        })
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
        let mut groups = x.chunks_exact(16);
        for x in &mut groups {
            for l in 0..16 {
                lanes[l] += (x[l] - mean) * (x[l] - mean);
            }
        }
        for (lane, x) in lanes.iter_mut().zip(groups.remainder()) {
            *lane += (*x - mean) * (*x - mean);
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
    fn multiply<T: Elementary>(w: &[T], y: &mut [T]) {
        for (y, w) in y.iter_mut().zip(w) {
            *y *= *w;
        }
    }
}

vectorized! {
    fn add<T: Elementary>(b: &[T], y: &mut [T]) {
        for (y, b) in y.iter_mut().zip(b) {
            *y += *b;
        }
    }
}

vectorized! {
    fn add_parameter_gradients<T: Elementary>(x: &[T], dy: &[T], stats: &[T], dw: &mut [T], db: &mut [T]) {
        let n = dw.len();
        let db = &mut db[..n];
        for ((x, dy), stats) in x.chunks_exact(n).zip(dy.chunks_exact(n)).zip(stats.chunks_exact(2)) {
            let (mean, inv) = (stats[0], stats[1]);
            for j in 0..n {
                dw[j] += dy[j] * ((x[j] - mean) * inv);
                db[j] += dy[j];
            }
        }
    }
}

vectorized! {
    /// `dx` holds `g` on entry, and receives the gradient.
    fn row_backward<T: Elementary>(x: &[T], mean: T, inv: T, centre: bool, dx: &mut [T]) {
        let n = T::from_f64(x.len() as f64);
        let (mut lanes_g, mut lanes_p) = ([T::zero(); 16], [T::zero(); 16]);
        let (mut groups_g, mut groups_x) = (dx.chunks_exact(16), x.chunks_exact(16));
        for (g, x) in (&mut groups_g).zip(&mut groups_x) {
            for l in 0..16 {
                lanes_g[l] += g[l];
                lanes_p[l] += g[l] * (x[l] - mean);
            }
        }
        for (l, (g, x)) in groups_g.remainder().iter().zip(groups_x.remainder()).enumerate() {
            lanes_g[l] += *g;
            lanes_p[l] += *g * (*x - mean);
        }
        let sum = |lanes: &[T; 16]| lanes.iter().fold(T::zero(), |a, b| a + *b);
        let mean_g = if centre { sum(&lanes_g) / n } else { T::zero() };
        let k = inv * inv * sum(&lanes_p) / n;
        for (g, x) in dx.iter_mut().zip(x) {
            *g = inv * (*g - mean_g - (*x - mean) * k);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_norm_and_parameter_gradients_match_definition() {
        for n in [1, 3, 17, 100] {
            let rows = 700;
            let value = |i: usize, seed: usize| ((i * 7919 + seed) % 257) as f64 / 64.0 - 2.0;
            let x: Vec<f64> = (0..rows * n).map(|i| value(i, 1)).collect();
            let dy: Vec<f64> = (0..rows * n).map(|i| value(i, 100)).collect();
            let narrow = |v: &[f64]| v.iter().map(|v| *v as f32).collect::<Vec<f32>>();
            let norm = RowNorm { n, centre: true, eps: 1e-5 };
            let (mut y, mut stats) = (vec![0.0; x.len()], vec![0.0; 2 * rows]);
            norm.forward(&narrow(&x), None, None, &mut y, &mut stats);
            let [dw, db] = norm.parameter_gradients(&narrow(&x), &narrow(&dy), &stats);
            let (mut weight, mut bias) = (vec![0.0f64; n], vec![0.0f64; n]);
            for r in 0..rows {
                let row = &x[r * n..][..n];
                let mean = row.iter().sum::<f64>() / n as f64;
                let var = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n as f64;
                for j in 0..n {
                    let expected = (row[j] - mean) / (var + 1e-5).sqrt();
                    assert!((f64::from(y[r * n + j]) - expected).abs() <= 1e-5, "n {n} row {r} column {j}");
                    weight[j] += dy[r * n + j] * expected;
                    bias[j] += dy[r * n + j];
                }
            }
            for j in 0..n {
                assert!((f64::from(dw[j]) - weight[j]).abs() <= 2e-3, "n {n}: {} for {}", dw[j], weight[j]);
                assert!((f64::from(db[j]) - bias[j]).abs() <= 2e-3, "n {n}: {} for {}", db[j], bias[j]);
            }
        }
    }
}
