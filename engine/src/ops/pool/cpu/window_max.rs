//! Maxima of windows over a channels-last image and their indices, shared by the max pooling kernels.
use crate::cpu::elementary::Elementary;
use crate::cpu::simd::{Simd, simd_kernel};
use crate::dtype::{as_f32, as_f32_mut};

/// Row of windows over an image.
#[derive(Clone, Copy)]
pub struct WindowRow<'a> {
    /// Image width.
    pub width: usize,
    /// Channels.
    pub c: usize,
    /// Image rows of the windows: (index of the row's first element, image row).
    pub rows: &'a [(usize, usize)],
    /// Image columns of each window: (index within the row, image column).
    pub columns: &'a [Vec<(usize, usize)>],
}

impl WindowRow<'_> {
    /// Maximum of each window, `y[window, c]`, and its index, an integer in `T`. Of equal elements the first is chosen. NaN counts as the
    /// largest, and of several NaN the last is chosen. An empty window gives -infinity and 0.
    pub fn maxima<T: Elementary>(&self, x: &[T], y: &mut [T], number: &mut [T]) {
        assert_eq!((y.len(), number.len()), (self.columns.len() * self.c, self.columns.len() * self.c));
        let pixels = x.len() / self.c;
        let last = |taps: &[(usize, usize)]| taps.iter().map(|(_, at)| *at).max().unwrap_or(0);
        let columns = self.columns.iter().map(|c| last(c)).max().unwrap_or(0);
        assert!(last(self.rows) * self.width + columns < pixels, "windows must lie within the image");
        if let (Some(x), Some(y), Some(number)) = (as_f32(x), as_f32_mut(y), as_f32_mut(number)) {
            // SAFETY: the windows lie within x, and y and number have one element per window and channel.
            if unsafe { finite_maxima(self, x.as_ptr(), y.as_mut_ptr(), number.as_mut_ptr()) } {
                return;
            }
        }
        self.any_maxima(x, y, number);
    }

    /// Reference implementation, element by element.
    fn any_maxima<T: Elementary>(&self, x: &[T], y: &mut [T], number: &mut [T]) {
        let first = |taps: &[(usize, usize)]| taps.first().map_or(0, |(number, _)| *number);
        for (at, (y, number)) in y.iter_mut().zip(number).enumerate() {
            let (columns, j) = (&self.columns[at / self.c], at % self.c);
            let (mut best, mut chosen) = (T::neg_infinity(), first(self.rows) + first(columns));
            for (row, iy) in self.rows {
                for (column, ix) in columns {
                    let v = x[(iy * self.width + ix) * self.c + j];
                    if v > best || v.is_nan() {
                        (best, chosen) = (v, row + column);
                    }
                }
            }
            (*y, *number) = (best, T::from_f64(chosen as f64));
        }
    }
}

simd_kernel! {
    /// [`WindowRow::maxima`] for finite elements. Returns false if an element is not finite; the results are then invalid.
    fn finite_maxima<S>(windows: &WindowRow, x: *const f32, y: *mut f32, number: *mut f32) -> bool {
        let c = windows.c;
        let mut finite = S::splat(0.0);
        for (i, columns) in windows.columns.iter().enumerate() {
            let mut j = 0;
            while j < c {
                let (left, at) = (c - j, i * c + j);
                let (x, y, number) = (x.add(j), y.add(at), number.add(at));
                // Several registers at a time, for instruction-level parallelism.
                if left >= 4 * S::LANES {
                    finite = S::add(finite, block::<S, 4>(windows, columns, S::LANES, x, y, number));
                    j += 4 * S::LANES;
                } else if left >= 2 * S::LANES {
                    finite = S::add(finite, block::<S, 2>(windows, columns, S::LANES, x, y, number));
                    j += 2 * S::LANES;
                } else {
                    let n = if left < S::LANES { left } else { S::LANES };
                    finite = S::add(finite, block::<S, 1>(windows, columns, n, x, y, number));
                    j += n;
                }
            }
        }
        S::sum(finite) == 0.0
    }
}

/// `V` registers of channels of one window, the last with `n` lanes. Returns zero, or NaN if an element is infinite or NaN.
#[inline(always)]
unsafe fn block<S: Simd, const V: usize>(
    windows: &WindowRow,
    columns: &[(usize, usize)],
    n: usize,
    x: *const f32,
    y: *mut f32,
    number: *mut f32,
) -> S::V {
    let (zero, last) = (S::splat(0.0), V - 1);
    let (mut best, mut chosen, mut finite) = ([S::splat(f32::NEG_INFINITY); V], [zero; V], [zero; V]);
    for (row, iy) in windows.rows {
        for (column, ix) in columns {
            let p = x.add((iy * windows.width + ix) * windows.c);
            let tap = S::splat((row + column) as f32);
            let mut i = 0;
            while i < V {
                let p = p.add(i * S::LANES);
                let v = if i < last || n == S::LANES { S::load(p) } else { S::load_first(p, n) };
                chosen[i] = S::select_gt(v, best[i], tap, chosen[i]);
                best[i] = S::select_gt(v, best[i], v, best[i]);
                finite[i] = S::fma(v, zero, finite[i]);
                i += 1;
            }
        }
    }
    let mut all = zero;
    let mut i = 0;
    while i < V {
        let (y, number) = (y.add(i * S::LANES), number.add(i * S::LANES));
        if i < last || n == S::LANES {
            S::store(y, best[i]);
            S::store(number, chosen[i]);
        } else {
            S::store_first(y, n, best[i]);
            S::store_first(number, n, chosen[i]);
        }
        all = S::add(all, finite[i]);
        i += 1;
    }
    all
}
