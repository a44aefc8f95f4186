//! Max and average pooling of channels-last images. Backward passes gather: each input pixel looks at the windows that cover it.
use super::elementary::Elementary;
use super::parallel::{Shared, for_each_task};
use super::vectorized::vectorized;
use crate::pool_shape::PoolShape;

/// The largest element of each window and which one it was (its index within the window), the first among equals; NaN wins.
pub fn max_forward<T: Elementary>(s: &PoolShape, x: &[T], y: &mut [T], index: &mut [u8]) {
    let (c, row) = (s.c, s.out[1] * s.c);
    let (y, index) = (Shared::new(y), Shared::new(index));
    for_each_task(s.n * s.out[0], |task| {
        let (n, oy) = (task / s.out[0], task % s.out[0]);
        // SAFETY: each row of the output belongs to one task.
        let (y, index) = unsafe { (y.slice(task * row, row), index.slice(task * row, row)) };
        let image = &x[n * s.size[0] * s.size[1] * c..][..s.size[0] * s.size[1] * c];
        let rows: Vec<(usize, usize)> = s.taps(0, oy).collect();
        for ox in 0..s.out[1] {
            let (y, index) = (&mut y[ox * c..][..c], &mut index[ox * c..][..c]);
            y.fill(T::neg_infinity());
            index.fill(0);
            let mut first = true;
            for &(ty, iy) in &rows {
                for (tx, ix) in s.taps(1, ox) {
                    let tap = (ty * s.pool.kernel[1] + tx) as u8;
                    let pixel = &image[(iy * s.size[1] + ix) * c..][..c];
                    if first {
                        take_first(pixel, tap, y, index)
                    } else {
                        take_larger(pixel, tap, y, index)
                    }
                    first = false;
                }
            }
        }
    });
}

/// Each pixel's gradient: the sum over the windows that chose it.
pub fn max_backward<T: Elementary>(s: &PoolShape, dy: &[T], index: &[u8], dx: &mut [T]) {
    for_each_covering(s, dx, |tap, window, dx| {
        add_where(&dy[window * s.c..][..s.c], &index[window * s.c..][..s.c], tap as u8, dx)
    });
}

/// The mean of each window; its divisor counts padding within the padded image when `count_include_pad`.
pub fn average_forward<T: Elementary>(s: &PoolShape, count_include_pad: bool, x: &[T], y: &mut [T]) {
    let (c, row) = (s.c, s.out[1] * s.c);
    let y = Shared::new(y);
    for_each_task(s.n * s.out[0], |task| {
        let (n, oy) = (task / s.out[0], task % s.out[0]);
        // SAFETY: each row of the output belongs to one task.
        let y = unsafe { y.slice(task * row, row) };
        let image = &x[n * s.size[0] * s.size[1] * c..][..s.size[0] * s.size[1] * c];
        for ox in 0..s.out[1] {
            let y = &mut y[ox * c..][..c];
            y.fill(T::zero());
            for (_, iy) in s.taps(0, oy) {
                for (_, ix) in s.taps(1, ox) {
                    add_scaled(&image[(iy * s.size[1] + ix) * c..][..c], T::one(), y);
                }
            }
            let scale = T::from_f64(1.0 / divisor(s, count_include_pad, oy, ox));
            y.iter_mut().for_each(|v| *v *= scale);
        }
    });
}

/// Each pixel's gradient: the sum over the windows that cover it, divided as the forward pass did.
pub fn average_backward<T: Elementary>(s: &PoolShape, count_include_pad: bool, dy: &[T], dx: &mut [T]) {
    for_each_covering(s, dx, |_, window, dx| {
        let (oy, ox) = (window / s.out[1] % s.out[0], window % s.out[1]);
        let scale = T::from_f64(1.0 / divisor(s, count_include_pad, oy, ox));
        add_scaled(&dy[window * s.c..][..s.c], scale, dx);
    });
}

/// Zeroes each pixel's gradient and calls `add(tap, window, gradient)` for the windows that cover it, in order.
fn for_each_covering<T: Elementary>(
    s: &PoolShape,
    dx: &mut [T],
    add: impl Fn(usize, usize, &mut [T]) + Sync + Send,
) {
    let (c, row) = (s.c, s.size[1] * s.c);
    let dx = Shared::new(dx);
    // The windows over a column are the same for every row: work them out once.
    let columns: Vec<Vec<(usize, usize)>> = (0..s.size[1]).map(|ix| s.covering(1, ix).collect()).collect();
    for_each_task(s.n * s.size[0], |task| {
        let (n, iy) = (task / s.size[0], task % s.size[0]);
        // SAFETY: each row of the input belongs to one task.
        let dx = unsafe { dx.slice(task * row, row) };
        let rows: Vec<(usize, usize)> = s.covering(0, iy).collect();
        for (ix, columns) in columns.iter().enumerate() {
            let dx = &mut dx[ix * c..][..c];
            dx.fill(T::zero());
            for &(ty, oy) in &rows {
                for &(tx, ox) in columns {
                    add(ty * s.pool.kernel[1] + tx, (n * s.out[0] + oy) * s.out[1] + ox, dx);
                }
            }
        }
    });
}

/// Elements that a window's mean is over.
fn divisor(s: &PoolShape, count_include_pad: bool, oy: usize, ox: usize) -> f64 {
    let extent = |axis: usize, i: usize| {
        let (start, pad) = (s.start(axis, i), s.pool.padding[axis] as isize);
        let end = (start + s.pool.kernel[axis] as isize).min(s.size[axis] as isize + pad);
        match count_include_pad {
            true => end - start,
            false => end.min(s.size[axis] as isize) - start.max(0),
        }
    };
    (extent(0, oy) * extent(1, ox)) as f64
}

fn take_first<T: Elementary>(x: &[T], tap: u8, y: &mut [T], index: &mut [u8]) {
    y.copy_from_slice(x);
    index.fill(tap);
}

vectorized! {
    fn take_larger<T: Elementary>(x: &[T], tap: u8, y: &mut [T], index: &mut [u8]) {
        for ((x, y), index) in x.iter().zip(y.iter_mut()).zip(index.iter_mut()) {
            // Not `x > y`: a NaN must win, and stay.
            let larger = !(*x <= *y) && !y.is_nan();
            *y = if larger { *x } else { *y };
            *index = if larger { tap } else { *index };
        }
    }
}

vectorized! {
    fn add_where<T: Elementary>(dy: &[T], index: &[u8], tap: u8, dx: &mut [T]) {
        for ((dx, dy), index) in dx.iter_mut().zip(dy).zip(index) {
            *dx += if *index == tap { *dy } else { T::zero() };
        }
    }
}

vectorized! {
    fn add_scaled<T: Elementary>(x: &[T], scale: T, y: &mut [T]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += *x * scale;
        }
    }
}
