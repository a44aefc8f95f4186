//! Batch normalisation of rows of channels, fused with an activation and a residual, in two passes each way.
//!
//! Forward: statistics, then `y = f(x * scale + shift + residual)`. Backward: per-channel sums of `d = dy * f'` and `d * x`,
//! then `dx = k1 * d + k2 * x + k3`. Rows are cut into chunks by shape; chunk results are merged in f64 in order.
use super::activation::{ActivationFn, with_activation};
use super::elementary::Elementary;
use super::parallel::{GRAIN, Shared, for_each_task};
use super::vectorized::vectorized;
use crate::Activation;

/// Mean and biased variance of each channel of rows of `c`.
///
/// A chunk sums distances from its first row, so a large common offset costs no precision; chunks merge by Chan's rule.
pub fn statistics<T: Elementary>(x: &[T], c: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = x.len() / c;
    let per_chunk = chunk_rows(c);
    let chunks = rows.div_ceil(per_chunk);
    let mut partial = vec![T::zero(); chunks * 2 * c];
    let out = Shared::new(&mut partial);
    for_each_task(chunks, |i| {
        let n = per_chunk.min(rows - i * per_chunk);
        // SAFETY: each chunk has its own sums.
        let (sums, squares) = unsafe { out.slice(i * 2 * c, 2 * c) }.split_at_mut(c);
        shifted_sums(&x[i * per_chunk * c..][..n * c], c, sums, squares);
    });
    let (mut mean, mut m2) = (vec![0.0f64; c], vec![0.0f64; c]);
    let mut count = 0.0;
    for (i, part) in partial.chunks_exact(2 * c).enumerate() {
        let n = per_chunk.min(rows - i * per_chunk) as f64;
        let first = &x[i * per_chunk * c..][..c];
        for j in 0..c {
            let offset = part[j].to_f64() / n;
            let (chunk_mean, chunk_m2) =
                (first[j].to_f64() + offset, part[c + j].to_f64() - offset * offset * n);
            let delta = chunk_mean - mean[j];
            mean[j] += delta * n / (count + n);
            m2[j] += chunk_m2.max(0.0) + delta * delta * count * n / (count + n);
        }
        count += n;
    }
    m2.iter_mut().for_each(|v| *v /= count);
    (mean, m2)
}

/// `y = f(x * scale + shift + residual)`, scale and shift by channel.
pub fn apply<T: Elementary>(
    x: &[T],
    scale: &[T],
    shift: &[T],
    residual: Option<&[T]>,
    f: Activation,
    y: &mut [T],
) {
    let c = scale.len();
    let out = Shared::new(y);
    for_chunks(x.len(), c, |_, start, len| {
        // SAFETY: chunks do not overlap.
        let y = unsafe { out.slice(start, len) };
        let x = &x[start..start + len];
        match residual {
            None => with_activation!(fused f, f => apply_rows(x, scale, shift, f, y)),
            Some(r) => {
                with_activation!(fused f, f => apply_rows_residual(x, &r[start..start + len], scale, shift, f, y))
            }
        }
    });
}

/// What tells the slope of the activation at an element, beside the normalised value.
#[derive(Clone, Copy)]
pub enum Slope<'a, T> {
    /// The normalised value alone.
    Input,
    /// The normalised value plus the residual.
    Residual(&'a [T]),
    /// The output: enough for ReLU and its kin.
    Output(&'a [T]),
}

/// One batch norm's operands in the backward pass.
pub struct Backward<'a, T> {
    /// Input.
    pub x: &'a [T],
    /// Gradient of the output.
    pub dy: &'a [T],
    /// `weight / std` by channel.
    pub scale: &'a [T],
    /// `bias - mean * scale` by channel.
    pub shift: &'a [T],
    /// The activation.
    pub activation: Activation,
    /// Where its slope comes from.
    pub slope: Slope<'a, T>,
}

impl<T: Elementary> Backward<'_, T> {
    /// Per channel, in f64: the sum of `d = dy * f'` and of `d * (x - mean)`.
    pub fn sums(&self, mean: &[T]) -> (Vec<f64>, Vec<f64>) {
        let c = mean.len();
        let per_chunk = chunk_rows(c);
        let chunks = (self.x.len() / c).div_ceil(per_chunk);
        let mut partial = vec![T::zero(); chunks * 2 * c];
        let out = Shared::new(&mut partial);
        for_chunks(self.x.len(), c, |i, start, len| {
            // SAFETY: each chunk has its own sums.
            let (sums, products) = unsafe { out.slice(i * 2 * c, 2 * c) }.split_at_mut(c);
            let (x, dy) = (&self.x[start..start + len], &self.dy[start..start + len]);
            with_activation!(fused self.activation, f => match self.slope {
                Slope::Input => reduce_rows(x, dy, self.scale, self.shift, mean, f, sums, products),
                Slope::Residual(r) => reduce_rows_residual(x, dy, &r[start..start + len], self.scale, self.shift, mean, f, sums, products),
                Slope::Output(y) => reduce_rows_output(x, dy, &y[start..start + len], mean, f, sums, products),
            });
        });
        let (mut sums, mut products) = (vec![0.0f64; c], vec![0.0f64; c]);
        for part in partial.chunks_exact(2 * c) {
            for j in 0..c {
                sums[j] += part[j].to_f64();
                products[j] += part[c + j].to_f64();
            }
        }
        (sums, products)
    }

    /// `dx = k1 * d + k2 * x + k3` by channel, and `d` itself (the residual's gradient) where it is asked for.
    pub fn apply(&self, k1: &[T], k2: &[T], k3: &[T], dx: Option<&mut [T]>, d: Option<&mut [T]>) {
        let c = k1.len();
        let (dx, d) = (dx.map(Shared::new), d.map(Shared::new));
        for_chunks(self.x.len(), c, |_, start, len| {
            let (x, dy) = (&self.x[start..start + len], &self.dy[start..start + len]);
            // SAFETY: chunks do not overlap.
            let dx = dx.as_ref().map(|o| unsafe { o.slice(start, len) });
            // SAFETY: as above.
            let d = d.as_ref().map(|o| unsafe { o.slice(start, len) });
            with_activation!(fused self.activation, f => match (self.slope, dx, d) {
                (Slope::Input, Some(dx), None) => dx_rows(x, dy, self.scale, self.shift, k1, k2, k3, f, dx),
                (Slope::Output(y), Some(dx), Some(d)) => dx_rows_output(x, dy, &y[start..start + len], k1, k2, k3, f, dx, d),
                // Rarer combinations: d first, by itself, then dx from it.
                (slope, dx, d) => {
                    let mut own = vec![];
                    let d = d.unwrap_or_else(|| {
                        own.resize(len, T::zero());
                        &mut own
                    });
                    match slope {
                        Slope::Input => d_rows(x, dy, self.scale, self.shift, f, d),
                        Slope::Residual(r) => d_rows_residual(x, dy, &r[start..start + len], self.scale, self.shift, f, d),
                        Slope::Output(y) => d_rows_output(dy, &y[start..start + len], f, d),
                    }
                    if let Some(dx) = dx {
                        combine_rows(x, d, k1, k2, k3, dx);
                    }
                }
            });
        });
    }
}

/// Rows of one chunk: small enough that its sums stay precise, large enough to be worth handing out.
fn chunk_rows(c: usize) -> usize {
    (GRAIN / c).clamp(16, 256)
}

/// Runs `f(chunk, first element, elements)` over chunks of rows of `c`.
fn for_chunks(len: usize, c: usize, f: impl Fn(usize, usize, usize) + Sync + Send) {
    let chunk = chunk_rows(c) * c;
    for_each_task(len.div_ceil(chunk), |i| f(i, i * chunk, chunk.min(len - i * chunk)));
}

vectorized! {
    /// Sums over rows of the distance from the first row, and of its square.
    fn shifted_sums<T: Elementary>(x: &[T], c: usize, sums: &mut [T], squares: &mut [T]) {
        sums.fill(T::zero());
        squares.fill(T::zero());
        let first = &x[..c];
        for row in x.chunks_exact(c) {
            let (sums, squares) = (&mut sums[..c], &mut squares[..c]);
            for j in 0..c {
                let d = row[j] - first[j];
                sums[j] += d;
                squares[j] += d * d;
            }
        }
    }
}

/// Declares a loop over rows of channels: slices by element are cut into rows, those by channel stay whole.
macro_rules! rows {
    ($name:ident: by_element($($x:ident),*) by_channel($($k:ident),*), $f:ident, writes($($w:ident),*), |$j:ident| $body:block) => {
        vectorized! {
            fn $name<T: Elementary, F: ActivationFn>($($x: &[T],)* $($k: &[T],)* $f: F, $($w: &mut [T]),*) {
                let c = rows!(@first $($k)*).len();
                let rows = rows!(@first $($x)*).len() / c;
                $(let $k = &$k[..c];)*
                for row in 0..rows {
                    $(let $x = &$x[row * c..][..c];)*
                    $(let $w = &mut $w[row * c..][..c];)*
                    for $j in 0..c $body
                }
            }
        }
    };
    (@first $first:ident $($rest:ident)*) => { $first };
}

rows!(apply_rows: by_element(x) by_channel(scale, shift), f, writes(y), |j| {
    y[j] = f.value(x[j] * scale[j] + shift[j]);
});
rows!(apply_rows_residual: by_element(x, r) by_channel(scale, shift), f, writes(y), |j| {
    y[j] = f.value(x[j] * scale[j] + shift[j] + r[j]);
});
rows!(d_rows: by_element(x, dy) by_channel(scale, shift), f, writes(d), |j| {
    d[j] = dy[j] * f.slope(x[j] * scale[j] + shift[j]);
});
rows!(d_rows_residual: by_element(x, dy, r) by_channel(scale, shift), f, writes(d), |j| {
    d[j] = dy[j] * f.slope(x[j] * scale[j] + shift[j] + r[j]);
});
rows!(dx_rows: by_element(x, dy) by_channel(scale, shift, k1, k2, k3), f, writes(dx), |j| {
    let d = dy[j] * f.slope(x[j] * scale[j] + shift[j]);
    dx[j] = k1[j] * d + k2[j] * x[j] + k3[j];
});
rows!(dx_rows_output: by_element(x, dy, y) by_channel(k1, k2, k3), f, writes(dx, d), |j| {
    let own = dy[j] * f.slope(y[j]);
    d[j] = own;
    dx[j] = k1[j] * own + k2[j] * x[j] + k3[j];
});

vectorized! {
    fn d_rows_output<T: Elementary, F: ActivationFn>(dy: &[T], y: &[T], f: F, d: &mut [T]) {
        for ((d, dy), y) in d.iter_mut().zip(dy).zip(y) {
            *d = *dy * f.slope(*y);
        }
    }
}

vectorized! {
    fn combine_rows<T: Elementary>(x: &[T], d: &[T], k1: &[T], k2: &[T], k3: &[T], dx: &mut [T]) {
        let c = k1.len();
        for row in 0..x.len() / c {
            let (x, d, dx) = (&x[row * c..][..c], &d[row * c..][..c], &mut dx[row * c..][..c]);
            let (k2, k3) = (&k2[..c], &k3[..c]);
            for j in 0..c {
                dx[j] = k1[j] * d[j] + k2[j] * x[j] + k3[j];
            }
        }
    }
}

/// Declares a reduction over rows: adds `d` and `d * (x - mean)` to the sums of the channels.
macro_rules! reduce {
    ($name:ident: by_element($x:ident $(, $more:ident)*) by_channel($($k:ident),*), |$f:ident, $j:ident| $d:expr) => {
        vectorized! {
            fn $name<T: Elementary, F: ActivationFn>($x: &[T], $($more: &[T],)* $($k: &[T],)* mean: &[T], $f: F, sums: &mut [T], products: &mut [T]) {
                let c = mean.len();
                sums.fill(T::zero());
                products.fill(T::zero());
                let (sums, products) = (&mut sums[..c], &mut products[..c]);
                $(let $k = &$k[..c];)*
                for row in 0..$x.len() / c {
                    let $x = &$x[row * c..][..c];
                    $(let $more = &$more[row * c..][..c];)*
                    for $j in 0..c {
                        let d = $d;
                        sums[$j] += d;
                        products[$j] += d * ($x[$j] - mean[$j]);
                    }
                }
            }
        }
    };
}

reduce!(reduce_rows: by_element(x, dy) by_channel(scale, shift), |f, j| dy[j] * f.slope(x[j] * scale[j] + shift[j]));
reduce!(reduce_rows_residual: by_element(x, dy, r) by_channel(scale, shift), |f, j| dy[j] * f.slope(x[j] * scale[j] + shift[j] + r[j]));
reduce!(reduce_rows_output: by_element(x, dy, y) by_channel(), |f, j| dy[j] * f.slope(y[j]));
