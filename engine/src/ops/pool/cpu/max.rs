//! Max pooling of channels-last images. The backward pass gathers: each input pixel reads the windows that contain it.
use super::window_max::WindowRow;
use crate::cpu::elementary::Elementary;
use crate::cpu::parallel::{DisjointSlice, for_each_task};
use crate::cpu::scratch;
use crate::cpu::stored::Stored;
use crate::cpu::vectorized::vectorized;
use crate::dtype::Element;
use crate::dtype::as_f32;
use crate::ops::pool::PoolShape;
use std::ops::Range;

/// Maximum of each window, and its index within the window. The first of equal elements is chosen; NaN counts as the largest.
pub fn max_forward<T: Stored>(s: &PoolShape, x: &[T], y: &mut [T], index: &mut [u8]) {
    let (row, image) = (s.out[1] * s.c, s.size[0] * s.size[1] * s.c);
    let (y, index) = (DisjointSlice::new(y), DisjointSlice::new(index));
    // The columns of a window are the same for every row: compute them once.
    let columns: Vec<Vec<(usize, usize)>> = (0..s.out[1]).map(|ox| s.taps(1, ox).collect()).collect();
    for_each_task(s.n * s.out[0], |task| {
        let (n, oy) = (task / s.out[0], task % s.out[0]);
        // SAFETY: each row of the output belongs to one task.
        let (y, index) = unsafe { (y.slice(task * row, row), index.slice(task * row, row)) };
        let read = covered(s.taps(0, oy));
        let rows: Vec<(usize, usize)> =
            s.taps(0, oy).map(|(t, iy)| (t * s.pool.kernel[1], iy - read.start)).collect();
        let windows = WindowRow { width: s.size[1], c: s.c, rows: &rows, columns: &columns };
        let pitch = s.size[1] * s.c;
        T::load(&x[n * image..][read.start * pitch..read.end * pitch], |x| {
            scratch::with(row, |number: &mut [T::Compute]| {
                T::store(y, |y| windows.maxima(x, y, number));
                match as_f32(number) {
                    Some(number) => to_bytes(number, index),
                    None => number.iter().zip(index).for_each(|(n, i)| *i = n.to_f64() as u8),
                }
            });
        });
    });
}

/// Gradient of each pixel: the sum of `dy` over the windows whose maximum it was.
pub fn max_backward<T: Stored>(s: &PoolShape, dy: &[T], index: &[u8], dx: &mut [T]) {
    let (row, image) = (s.size[1] * s.c, s.out[0] * s.out[1] * s.c);
    let dx = DisjointSlice::new(dx);
    let columns: Vec<Vec<(usize, usize)>> = (0..s.size[1]).map(|ix| s.covering(1, ix).collect()).collect();
    for_each_task(s.n * s.size[0], |task| {
        let (n, iy) = (task / s.size[0], task % s.size[0]);
        // SAFETY: each row of the input belongs to one task.
        let dx = unsafe { dx.slice(task * row, row) };
        let read = covered(s.covering(0, iy));
        let rows: Vec<(usize, usize)> = s.covering(0, iy).map(|(t, oy)| (t, oy - read.start)).collect();
        let pitch = s.out[1] * s.c;
        let windows = n * image + read.start * pitch..n * image + read.end * pitch;
        T::load(&dy[windows.clone()], |dy| {
            T::store(dx, |dx| gather_row(s, dy, &index[windows], &rows, &columns, dx));
        });
    });
}

/// For each window the pixel that was its maximum; 0 for a window without pixels.
pub fn pick_maxima<T: Stored>(s: &PoolShape, x: &[T], index: &[u8], y: &mut [T]) {
    let (row, image) = (s.out[1] * s.c, s.size[0] * s.size[1] * s.c);
    let y = DisjointSlice::new(y);
    for_each_task(s.n * s.out[0], |task| {
        let (n, oy) = (task / s.out[0], task % s.out[0]);
        // SAFETY: each row of the output belongs to one task.
        let y = unsafe { y.slice(task * row, row) };
        for (i, (y, tap)) in y.iter_mut().zip(&index[task * row..]).enumerate() {
            let (ox, j, tap) = (i / s.c, i % s.c, usize::from(*tap));
            let pixel = s.pixel(0, oy, tap / s.pool.kernel[1]).zip(s.pixel(1, ox, tap % s.pool.kernel[1]));
            *y = pixel.map_or(T::from_f64(0.0), |(iy, ix)| x[n * image + (iy * s.size[1] + ix) * s.c + j]);
        }
    });
}

/// Range that holds the positions; the first one if there are none, as a window in the padding has.
fn covered(positions: impl Iterator<Item = (usize, usize)>) -> Range<usize> {
    let join = |a: Range<usize>, b: Range<usize>| a.start.min(b.start)..a.end.max(b.end);
    positions.map(|(_, at)| at..at + 1).reduce(join).unwrap_or(0..1)
}

/// Converts integers below 256 to bytes.
fn to_bytes(from: &[f32], to: &mut [u8]) {
    for (from, to) in from.iter().zip(to) {
        // SAFETY: integers below 256 fit in i32. A checked conversion takes longer than finding the maxima.
        *to = unsafe { from.to_int_unchecked::<i32>() } as u8;
    }
}

vectorized! {
    /// One row of an image's gradient. `rows` and `columns` are (index within the window, window).
    fn gather_row<T: Elementary>(s: &PoolShape, dy: &[T], index: &[u8], rows: &[(usize, usize)], columns: &[Vec<(usize, usize)>], dx: &mut [T]) {
        let c = s.c;
        for (dx, columns) in dx.chunks_exact_mut(c).zip(columns) {
            dx.fill(T::zero());
            for (ty, oy) in rows {
                for (tx, ox) in columns {
                    let tap = (ty * s.pool.kernel[1] + tx) as u8;
                    let at = (oy * s.out[1] + ox) * c;
                    let (dy, index) = (&dy[at..][..c], &index[at..][..c]);
                    for j in 0..c {
                        dx[j] += if index[j] == tap { dy[j] } else { T::zero() };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool2dOptions;

    fn shape(kernel: usize, stride: usize, padding: usize, c: usize) -> PoolShape {
        let pool = Pool2dOptions {
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [padding; 2],
            ..Pool2dOptions::default()
        };
        let out = [5, 7].map(|size| pool.windows(0, size).expect("fits"));
        PoolShape { n: 2, size: [5, 7], out, c, pool }
    }

    /// Reference: PyTorch's loop over one window at a time.
    fn reference(s: &PoolShape, x: &[f32]) -> (Vec<f32>, Vec<u8>) {
        let (mut y, mut index) = (vec![], vec![]);
        for i in 0..s.n * s.out[0] * s.out[1] * s.c {
            let (j, ox, oy) = (i % s.c, i / s.c % s.out[1], i / s.c / s.out[1] % s.out[0]);
            let image = i / s.c / s.out[1] / s.out[0] * s.size[0] * s.size[1];
            let mut best: Option<(f32, usize)> = None;
            for (ty, iy) in s.taps(0, oy) {
                for (tx, ix) in s.taps(1, ox) {
                    let v = x[(image + iy * s.size[1] + ix) * s.c + j];
                    if best.is_none_or(|(b, _)| v > b || v.is_nan()) {
                        best = Some((v, ty * s.pool.kernel[1] + tx));
                    }
                }
            }
            let (value, tap) = best.expect("a window covers a pixel");
            y.push(value);
            index.push(tap as u8);
        }
        (y, index)
    }

    #[test]
    fn ties_infinities_and_nan_match_pytorch() {
        for c in [1, 3, 16, 17, 100] {
            for (kernel, stride, padding) in [(3, 2, 1), (2, 2, 0), (3, 1, 1)] {
                let s = shape(kernel, stride, padding, c);
                let value = |i: usize| match i * 7919 % 23 {
                    0 => f32::NAN,
                    1..6 => f32::NEG_INFINITY,
                    k => (k / 4) as f32,
                };
                let x: Vec<f32> = (0..s.n * 35 * c).map(value).collect();
                let (expected, expected_index) = reference(&s, &x);
                let (mut y, mut index) = (vec![0.0; expected.len()], vec![255; expected.len()]);
                max_forward(&s, &x, &mut y, &mut index);
                let same = |a: f32, b: f32| a == b || (a.is_nan() && b.is_nan());
                assert!(y.iter().zip(&expected).all(|(a, b)| same(*a, *b)), "{s:?}");
                assert_eq!(index, expected_index, "{s:?}");

                // Every window's gradient goes to its maximum, and nowhere else.
                let dy: Vec<f32> = (0..y.len()).map(|i| (i % 31) as f32 - 15.0).collect();
                let mut expected = vec![0.0f32; x.len()];
                for i in 0..dy.len() {
                    let (j, window) = (i % c, i / c);
                    let (ox, oy, n) =
                        (window % s.out[1], window / s.out[1] % s.out[0], window / s.out[1] / s.out[0]);
                    let (ty, tx) = (index[i] as usize / kernel, index[i] as usize % kernel);
                    let (iy, ix) = (s.start(0, oy) + ty as isize, s.start(1, ox) + tx as isize);
                    expected[((n * 5 + iy as usize) * 7 + ix as usize) * c + j] += dy[i];
                }
                let mut dx = vec![9.0; x.len()];
                max_backward(&s, &dy, &index, &mut dx);
                assert_eq!(dx, expected, "{s:?}");
            }
        }
    }
}
