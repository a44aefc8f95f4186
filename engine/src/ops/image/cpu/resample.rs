//! Separable resampling of images `[n, h, w, c]` in one pass. A weighted sum of input rows stays in the cache, and each output pixel is a
//! weighted sum of its pixels.
use crate::cpu::elementary::Elementary;
use crate::cpu::parallel::{DisjointSlice, for_each_task};
use crate::cpu::scratch;
use crate::cpu::vectorized::vectorized;
use crate::resampling::{Resampling, ResamplingBand};

/// `y[n, i, j, c] = sum over k, l of vertical[i, k] * horizontal[j, l] * x[n, k, l, c]`.
pub fn resample<T: Elementary>(
    vertical: &Resampling,
    horizontal: &Resampling,
    c: usize,
    x: &[T],
    y: &mut [T],
) {
    let (row, out_row) = (horizontal.inputs() * c, horizontal.rows().len() * c);
    let (image, out_rows) = (vertical.inputs() * row, vertical.rows().len());
    let out = DisjointSlice::new(y);
    for_each_task(x.len() / image.max(1) * out_rows, |task| {
        let (n, i) = (task / out_rows, task % out_rows);
        // SAFETY: each output row belongs to one task.
        let y = unsafe { out.slice(task * out_row, out_row) };
        scratch::with(row, |sum: &mut [T]| {
            weighted_rows(&vertical.rows()[i], &x[n * image..][..image], sum);
            weighted_pixels(horizontal.rows(), c, sum, y);
        });
    });
}

vectorized! {
    /// Weighted sum of the band's rows, each as long as `sum`.
    fn weighted_rows<T: Elementary>(band: &ResamplingBand, x: &[T], sum: &mut [T]) {
        sum.fill(T::zero());
        for (row, weight) in x.chunks_exact(sum.len()).skip(band.start).zip(&band.weights) {
            let weight = T::from_f64(*weight);
            for (sum, x) in sum.iter_mut().zip(row) {
                *sum += *x * weight;
            }
        }
    }
}

vectorized! {
    /// Each pixel of `y` as the weighted sum of its band of pixels in the row `x`.
    fn weighted_pixels<T: Elementary>(bands: &[ResamplingBand], c: usize, x: &[T], y: &mut [T]) {
        for (band, y) in bands.iter().zip(y.chunks_exact_mut(c)) {
            y.fill(T::zero());
            for (pixel, weight) in x.chunks_exact(c).skip(band.start).zip(&band.weights) {
                let weight = T::from_f64(*weight);
                for (y, x) in y.iter_mut().zip(pixel) {
                    *y += *x * weight;
                }
            }
        }
    }
}
