//! Batch normalisation of rows of channels, fused with an activation and a residual, in two passes each way.
//!
//! Forward: statistics, then `y = f(x * scale + shift + residual)`. Backward: per-channel sums of `d = dy * f'` and `d * x`,
//! then `dx = k1 * d + k2 * x + k3`. Rows are cut into chunks by shape; chunk results are merged in f64 in order. Values of channels have
//! the type in which the elements are computed.
use crate::cpu::elementary::Elementary;
use crate::cpu::parallel::{DisjointSlice, GRAIN, for_each_task};
use crate::cpu::stored::Stored;
use crate::cpu::vectorized::vectorized;
use crate::dtype::Real;
use crate::ops::elementwise::cpu::activation::{ActivationFn, with_fused_activation};
use crate::scalar::activation::functions::Identity;
use crate::{Activation, Element};
use std::ops::Range;

/// Mean and biased variance of each channel, for rows of `c` channels.
///
/// Each chunk sums differences from its first row, so that a large common offset costs no precision. Chunks are merged by Chan's
/// parallel algorithm.
pub fn statistics<T: Stored>(x: &[T], c: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = x.len() / c;
    let per_chunk = chunk_rows(c);
    let chunks = rows.div_ceil(per_chunk);
    let mut partial = vec![T::Compute::zero(); chunks * 2 * c];
    let out = DisjointSlice::new(&mut partial);
    for_each_task(chunks, |i| {
        let n = per_chunk.min(rows - i * per_chunk);
        // SAFETY: each chunk has its own sums.
        let (sums, squares) = unsafe { out.slice(i * 2 * c, 2 * c) }.split_at_mut(c);
        T::load(&x[i * per_chunk * c..][..n * c], |x| shifted_sums(x, sums, squares));
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

/// `y = f(x * scale + shift + residual)`, with per-channel scale and shift.
pub fn apply<T: Stored>(
    x: &[T],
    scale: &[T::Compute],
    shift: &[T::Compute],
    residual: Option<&[T]>,
    f: Activation,
    y: &mut [T],
) {
    let c = scale.len();
    let out = DisjointSlice::new(y);
    for_chunks(x.len(), c, |_, chunk| {
        for at in blocks(chunk, c) {
            // SAFETY: blocks do not overlap.
            let y = unsafe { out.slice(at.start, at.len()) };
            T::load(&x[at.clone()], |x| match residual {
                None => T::store(y, |y| with_fused_activation!(f, f => apply_rows(x, scale, shift, f, y))),
                Some(r) => T::load(&r[at], |r| {
                    T::store(
                        y,
                        |y| with_fused_activation!(f, f => apply_rows_residual(x, r, scale, shift, f, y)),
                    )
                }),
            });
        }
    });
}

/// [`apply`] without a residual to some rows, on the calling thread.
pub fn apply_chunk<T: Elementary>(x: &[T], scale: &[T], shift: &[T], f: Activation, y: &mut [T]) {
    with_fused_activation!(f, f => apply_rows(x, scale, shift, f, y));
}

/// [`apply`] with a residual, for an activation whose derivative is 0 or 1. Bit `i % 8` of `mask[i / 8]` is set to the derivative
/// at element `i`.
pub fn apply_masked<T: Stored>(
    x: &[T],
    scale: &[T::Compute],
    shift: &[T::Compute],
    residual: &[T],
    f: Activation,
    y: &mut [T],
    mask: &mut [u8],
) {
    let c = scale.len();
    let (out, mask) = (DisjointSlice::new(y), DisjointSlice::new(mask));
    for_chunks(x.len(), c, |_, chunk| {
        for at in blocks(chunk, c) {
            // SAFETY: blocks do not overlap, and start at whole bytes.
            let (y, mask) =
                unsafe { (out.slice(at.start, at.len()), mask.slice(at.start / 8, at.len().div_ceil(8))) };
            T::load(&x[at.clone()], |x| {
                T::load(&residual[at], |r| {
                    T::store(y, |y| {
                        with_fused_activation!(f, f => {
                            apply_rows_residual(x, r, scale, shift, f, y);
                            pack_derivatives(y, f, mask)
                        });
                    });
                });
            });
        }
    });
}

/// Operand that, together with the normalised value, determines the activation's derivative at an element.
#[derive(Clone, Copy)]
pub enum DerivativeOperand<'a, T> {
    /// None: the normalised value is the activation's input.
    Input,
    /// The residual, which is added to the normalised value.
    Residual(&'a [T]),
    /// The bit mask written by [`apply_masked`].
    Mask(&'a [u8]),
}

/// Operands of the backward pass.
pub struct BatchNormBackward<'a, T: Stored> {
    /// Input of the forward pass.
    pub x: &'a [T],
    /// `weight / std` of each channel.
    pub scale: &'a [T::Compute],
    /// `bias - mean * scale` of each channel.
    pub shift: &'a [T::Compute],
    /// The fused activation.
    pub activation: Activation,
    /// Source of the activation's derivative.
    pub derivative: DerivativeOperand<'a, T>,
}

impl<T: Stored> BatchNormBackward<'_, T> {
    /// Per-channel sums of `d = dy * f'` and of `d * (x - mean)`, in f64. Requires [`DerivativeOperand::Input`].
    pub fn sums(&self, dy: &[T], mean: &[T::Compute]) -> (Vec<f64>, Vec<f64>) {
        self.merged(|chunk, sums, products| {
            for at in blocks(chunk, self.scale.len()) {
                T::load(&self.x[at.clone()], |x| {
                    T::load(&dy[at], |dy| {
                        with_fused_activation!(self.activation, f => {
                            add_sums(x, dy, self.scale, self.shift, mean, f, sums, products)
                        });
                    });
                });
            }
        })
    }

    /// `dx = k1 * d + k2 * x + k3` with per-channel coefficients. Requires [`DerivativeOperand::Input`]. If `dy` is `None`, `dx`
    /// holds it on entry.
    pub fn input_gradient(&self, dy: Option<&[T]>, [k1, k2, k3]: [&[T::Compute]; 3], dx: &mut [T]) {
        let dx = DisjointSlice::new(dx);
        for_chunks(self.x.len(), self.scale.len(), |_, chunk| {
            for at in blocks(chunk, self.scale.len()) {
                // SAFETY: blocks do not overlap.
                let dx = unsafe { dx.slice(at.start, at.len()) };
                if let Some(dy) = dy {
                    dx.copy_from_slice(&dy[at.clone()]);
                }
                T::load(&self.x[at], |x| {
                    T::update(dx, |dx| {
                        with_fused_activation!(self.activation, f => {
                            dx_rows(x, self.scale, self.shift, k1, k2, k3, f, dx)
                        });
                    });
                });
            }
        });
    }

    /// `d = dy * f'` and its [`BatchNormBackward::sums`]. If `dy` is `None`, `d` holds it on entry.
    pub fn gradient_and_sums(
        &self,
        dy: Option<&[T]>,
        mean: &[T::Compute],
        d: &mut [T],
    ) -> (Vec<f64>, Vec<f64>) {
        let d = DisjointSlice::new(d);
        self.merged(|chunk, sums, products| {
            for at in blocks(chunk, self.scale.len()) {
                // SAFETY: blocks do not overlap.
                let d = unsafe { d.slice(at.start, at.len()) };
                if let Some(dy) = dy {
                    d.copy_from_slice(&dy[at.clone()]);
                }
                let (scale, shift) = (self.scale, self.shift);
                T::load(&self.x[at.clone()], |x| {
                    T::update(d, |d| {
                        with_fused_activation!(self.activation, f => match self.derivative {
                            DerivativeOperand::Input => activation_grad_rows(x, scale, shift, f, d),
                            DerivativeOperand::Residual(r) => {
                                T::load(&r[at], |r| activation_grad_rows_residual(x, r, scale, shift, f, d))
                            }
                            DerivativeOperand::Mask(mask) => apply_mask(&mask[at.start / 8..], d),
                        });
                        add_sums(x, d, scale, shift, mean, Identity(0.0), sums, products);
                    });
                });
            }
        })
    }

    /// Per-channel sums over chunks, merged in order in f64. `add` accumulates one chunk into zeroed buffers.
    fn merged(
        &self,
        add: impl Fn(Range<usize>, &mut [T::Compute], &mut [T::Compute]) + Sync + Send,
    ) -> (Vec<f64>, Vec<f64>) {
        let c = self.scale.len();
        let chunks = (self.x.len() / c).div_ceil(chunk_rows(c));
        let mut partial = vec![T::Compute::zero(); chunks * 2 * c];
        let out = DisjointSlice::new(&mut partial);
        for_chunks(self.x.len(), c, |i, at| {
            // SAFETY: each chunk has its own sums.
            let (sums, products) = unsafe { out.slice(i * 2 * c, 2 * c) }.split_at_mut(c);
            add(at, sums, products);
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
}

/// `dx = k1 * d + k2 * x + k3` with per-channel coefficients.
pub fn combine<T: Stored>(x: &[T], d: &[T], [k1, k2, k3]: [&[T::Compute]; 3], dx: &mut [T]) {
    let dx = DisjointSlice::new(dx);
    for_chunks(x.len(), k1.len(), |_, chunk| {
        for at in blocks(chunk, k1.len()) {
            // SAFETY: blocks do not overlap.
            let dx = unsafe { dx.slice(at.start, at.len()) };
            T::load(&x[at.clone()], |x| {
                T::load(&d[at], |d| T::store(dx, |dx| combine_rows(x, d, k1, k2, k3, dx)));
            });
        }
    });
}

/// [`combine`] with `d` in `dx` on entry.
pub fn combine_in_place<T: Stored>(x: &[T], [k1, k2, k3]: [&[T::Compute]; 3], dx: &mut [T]) {
    let dx = DisjointSlice::new(dx);
    for_chunks(x.len(), k1.len(), |_, chunk| {
        for at in blocks(chunk, k1.len()) {
            // SAFETY: blocks do not overlap.
            let dx = unsafe { dx.slice(at.start, at.len()) };
            T::load(&x[at], |x| T::update(dx, |dx| combine_rows_in_place(x, k1, k2, k3, dx)));
        }
    });
}

/// Rows of one chunk: few enough for precise sums, enough to pay for scheduling a task.
fn chunk_rows(c: usize) -> usize {
    whole_bytes((GRAIN / c).clamp(16, 256), c)
}

/// Splits a chunk into blocks of rows that stay in the L1 cache between two loops.
fn blocks(chunk: Range<usize>, c: usize) -> impl Iterator<Item = Range<usize>> {
    let block = whole_bytes((4096 / c).max(1), c) * c;
    let end = chunk.end;
    chunk.step_by(block).map(move |start| start..end.min(start + block))
}

/// Rounds `rows` up to a multiple whose elements are a multiple of eight, so that their bit mask fills whole bytes.
fn whole_bytes(rows: usize, c: usize) -> usize {
    rows.next_multiple_of(8 >> c.trailing_zeros().min(3))
}

/// Runs `f(chunk index, element range)` over chunks of rows of `c` channels.
fn for_chunks(len: usize, c: usize, f: impl Fn(usize, Range<usize>) + Sync + Send) {
    let chunk = chunk_rows(c) * c;
    for_each_task(len.div_ceil(chunk), |i| f(i, i * chunk..len.min((i + 1) * chunk)));
}

vectorized! {
    /// Sums over rows of the difference from the first row, and of its square.
    fn shifted_sums<T: Elementary>(x: &[T], sums: &mut [T], squares: &mut [T]) {
        sums.fill(T::zero());
        squares.fill(T::zero());
        let c = sums.len();
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

/// Declares a loop over rows of channels. Per-element slices are split into rows; per-channel slices are passed whole.
macro_rules! rows {
    ($name:ident: by_element($($x:ident),*) by_channel($($k:ident),*), $f:ident, writes($($w:ident),*), |$j:ident| $body:block) => {
        vectorized! {
            wide fn $name<T: Elementary, F: ActivationFn>($($x: &[T],)* $($k: &[T],)* $f: F, $($w: &mut [T]),*) {
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
rows!(dx_rows: by_element(x) by_channel(scale, shift, k1, k2, k3), f, writes(dx), |j| {
    let d = dx[j] * f.derivative(x[j] * scale[j] + shift[j]);
    dx[j] = k1[j] * d + k2[j] * x[j] + k3[j];
});
rows!(activation_grad_rows: by_element(x) by_channel(scale, shift), f, writes(d), |j| {
    d[j] *= f.derivative(x[j] * scale[j] + shift[j]);
});
rows!(activation_grad_rows_residual: by_element(x, r) by_channel(scale, shift), f, writes(d), |j| {
    d[j] *= f.derivative(x[j] * scale[j] + shift[j] + r[j]);
});

vectorized! {
    /// Bit mask of the outputs with a non-zero derivative, eight to a byte, the first in the lowest bit.
    wide fn pack_derivatives<T: Elementary, F: ActivationFn>(y: &[T], f: F, mask: &mut [u8]) {
        let eights = y.chunks_exact(8);
        if let [.., last] = &mut mask[..] {
            *last = eights.remainder().iter().rev().fold(0, |bits, y| bits << 1 | u8::from(f.derivative(*y) != T::zero()));
        }
        for (byte, y) in mask.iter_mut().zip(eights) {
            let mut bits = 0;
            for k in 0..8 {
                bits |= u8::from(f.derivative(y[k]) != T::zero()) << k;
            }
            *byte = bits;
        }
    }
}

vectorized! {
    /// Multiplies `d` by the bits of the mask.
    wide fn apply_mask<T: Elementary>(mask: &[u8], d: &mut [T]) {
        let mut eights = d.chunks_exact_mut(8);
        let whole = eights.len();
        for (bits, d) in mask.iter().zip(&mut eights) {
            // Multiplying by the bit is twice as fast as selecting by it.
            for k in 0..8 {
                d[k] *= T::from_f64(f64::from(u32::from(*bits) >> k & 1));
            }
        }
        for (k, d) in eights.into_remainder().iter_mut().enumerate() {
            *d *= T::from_f64(f64::from(u32::from(mask[whole]) >> k & 1));
        }
    }
}

vectorized! {
    fn combine_rows_in_place<T: Elementary>(x: &[T], k1: &[T], k2: &[T], k3: &[T], d: &mut [T]) {
        let c = k1.len();
        for (x, d) in x.chunks_exact(c).zip(d.chunks_exact_mut(c)) {
            let (k2, k3) = (&k2[..c], &k3[..c]);
            for j in 0..c {
                d[j] = k1[j] * d[j] + k2[j] * x[j] + k3[j];
            }
        }
    }
}

vectorized! {
    fn combine_rows<T: Elementary>(x: &[T], d: &[T], k1: &[T], k2: &[T], k3: &[T], dx: &mut [T]) {
        let c = k1.len();
        for ((x, d), dx) in x.chunks_exact(c).zip(d.chunks_exact(c)).zip(dx.chunks_exact_mut(c)) {
            let (k2, k3) = (&k2[..c], &k3[..c]);
            for j in 0..c {
                dx[j] = k1[j] * d[j] + k2[j] * x[j] + k3[j];
            }
        }
    }
}

vectorized! {
    /// Adds `d = dy * f'` and `d * (x - mean)` to the sums of the channels.
    wide fn add_sums<T: Elementary, F: ActivationFn>(x: &[T], dy: &[T], scale: &[T], shift: &[T], mean: &[T], f: F, sums: &mut [T], products: &mut [T]) {
        let c = mean.len();
        let (sums, products, scale, shift) = (&mut sums[..c], &mut products[..c], &scale[..c], &shift[..c]);
        for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
            for j in 0..c {
                let d = dy[j] * f.derivative(x[j] * scale[j] + shift[j]);
                sums[j] += d;
                products[j] += d * (x[j] - mean[j]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: usize) -> Vec<f64> {
        // Multiples of 1/64: exact in f32.
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 257) as f64 / 64.0 - 2.0).collect()
    }

    fn narrow(x: &[f64]) -> Vec<f32> {
        x.iter().map(|v| *v as f32).collect()
    }

    #[test]
    fn statistics_match_definition_at_large_offsets() {
        for c in [1, 3, 17, 100] {
            for offset in [0.0, 4096.0] {
                let rows = 1000;
                let x: Vec<f64> = values(rows * c, 1).iter().map(|v| v + offset).collect();
                let (mean, var) = statistics(&narrow(&x), c);
                for j in 0..c {
                    let column = || x.iter().skip(j).step_by(c);
                    let m = column().sum::<f64>() / rows as f64;
                    let v = column().map(|x| (x - m) * (x - m)).sum::<f64>() / rows as f64;
                    assert!((mean[j] - m).abs() <= 1e-6, "c {c} offset {offset}: mean {} for {m}", mean[j]);
                    assert!(
                        (var[j] - v).abs() <= 1e-5 * v,
                        "c {c} offset {offset}: variance {} for {v}",
                        var[j]
                    );
                }
            }
        }
    }

    #[test]
    fn in_place_and_out_of_place_gradients_agree() {
        let (c, rows) = (17, 700);
        let [x, dy, r] = [1, 2, 3].map(|seed| narrow(&values(rows * c, seed)));
        let mask: Vec<u8> = (0..x.len().div_ceil(8)).map(|i| (i * 151 % 256) as u8).collect();
        let [scale, shift, mean, k1, k2, k3] = [4, 5, 6, 7, 8, 9].map(|seed| narrow(&values(c, seed)));
        let k = [&k1[..], &k2[..], &k3[..]];
        for activation in [Activation::Identity, Activation::Relu, Activation::Silu] {
            for derivative in
                [DerivativeOperand::Input, DerivativeOperand::Residual(&r), DerivativeOperand::Mask(&mask)]
            {
                let pass = BatchNormBackward { x: &x, scale: &scale, shift: &shift, activation, derivative };
                let mut d = vec![f32::NAN; x.len()];
                let sums = pass.gradient_and_sums(Some(&dy), &mean, &mut d);
                let mut in_place = dy.clone();
                assert_eq!(pass.gradient_and_sums(None, &mean, &mut in_place), sums);
                assert_eq!(in_place, d);
                let mut dx = vec![f32::NAN; x.len()];
                combine(&x, &d, k, &mut dx);
                combine_in_place(&x, k, &mut in_place);
                assert_eq!(in_place, dx);
                if let DerivativeOperand::Input = derivative {
                    assert_eq!(pass.sums(&dy, &mean), sums);
                    in_place.copy_from_slice(&dy);
                    pass.input_gradient(None, k, &mut in_place);
                    assert_eq!(in_place, dx);
                    in_place.fill(f32::NAN);
                    pass.input_gradient(Some(&dy), k, &mut in_place);
                    assert_eq!(in_place, dx);
                }
            }
        }
    }
    #[test]
    fn mask_is_set_where_derivative_is_one() {
        for (c, rows) in [(1, 3), (3, 700), (17, 300), (24, 400), (100, 50)] {
            let [x, r] = [1, 2].map(|seed| narrow(&values(rows * c, seed)));
            let (scale, shift) = (vec![3.0; c], vec![0.5; c]);
            for f in [Activation::Relu, Activation::Relu6] {
                let (mut y, mut expected) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
                let mut mask = vec![0xa5; x.len().div_ceil(8)];
                apply_masked(&x, &scale, &shift, &r, f, &mut y, &mut mask);
                apply(&x, &scale, &shift, Some(&r), f, &mut expected);
                assert_eq!(y, expected);
                let mut d = vec![1.0f32; x.len()];
                apply_mask(&mask, &mut d);
                for (i, (d, y)) in d.iter().zip(&y).enumerate() {
                    let is_inside = *y > 0.0 && (f == Activation::Relu || *y < 6.0);
                    assert_eq!(*d == 1.0, is_inside, "c {c} {f:?}: element {i}, {y}");
                }
            }
        }
    }
}
