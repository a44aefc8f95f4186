//! How kernels walk two arrays side by side (`kernels/cu/walk.cuh`): axes merged as far as they go, and large walks cut up.
use super::{CudaError, DeviceSlice, Grid, Result};
use crate::{DType, MAX_RANK};

/// Elements in rows, and where each lies in two arrays, `a` and `b`; the twin of `struct Walk` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    n: i64,
    inner: i64,
    a_start: i64,
    b_start: i64,
    y_start: i64,
    a_step: i64,
    b_step: i64,
    rank: i32,
    packed: i32,
    extents: [u32; MAX_RANK],
    a: [i64; MAX_RANK],
    b: [i64; MAX_RANK],
}
// SAFETY: integers only, the small ones in pairs: no padding.
unsafe impl bytemuck::NoUninit for Walk {}

/// Kernels number the elements of a walk over several axes in 32 bits.
const LIMIT: i64 = 1 << 32;

/// One axis: its extent, and the steps along it in both arrays.
pub(crate) type Axis = (usize, isize, isize);

impl Walk {
    /// A walk over axes, outermost first, from the given elements on.
    pub(crate) fn new(axes: impl IntoIterator<Item = Axis>, a_start: usize, b_start: usize) -> Walk {
        let mut merged: Vec<Axis> = vec![];
        let mut n = 1;
        for (extent, a, b) in axes {
            n *= extent;
            let length = extent as isize;
            match merged.last_mut() {
                _ if extent == 1 => {}
                // The outer axis steps over whole inner ones in both arrays: one axis.
                Some(last) if last.1 == a * length && last.2 == b * length => *last = (last.0 * extent, a, b),
                _ => merged.push((extent, a, b)),
            }
        }
        let (inner, a_step, b_step) = merged.pop().unwrap_or((1, 1, 1));
        let mut walk = Walk {
            n: n as i64,
            inner: inner as i64,
            a_start: a_start as i64,
            b_start: b_start as i64,
            y_start: 0,
            a_step: a_step as i64,
            b_step: b_step as i64,
            rank: merged.len() as i32,
            packed: 0,
            extents: [0; MAX_RANK],
            a: [0; MAX_RANK],
            b: [0; MAX_RANK],
        };
        for (axis, (extent, a, b)) in merged.into_iter().enumerate() {
            (walk.extents[axis], walk.a[axis], walk.b[axis]) = (extent as u32, a as i64, b as i64);
        }
        walk
    }

    /// True without elements.
    pub(crate) fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// True when both arrays are dense from the walk's beginning to its end.
    pub(crate) fn is_dense(&self) -> bool {
        self.rank == 0 && self.a_step == 1 && self.b_step == 1
    }

    /// If this is the transposition of dense matrices `[batch, rows, columns]`, written row by row: batch, rows and columns.
    pub(crate) fn as_transposition(&self) -> Option<[usize; 3]> {
        let last = self.rank as usize - usize::from(self.rank > 0);
        let (rows, columns) = (self.inner, i64::from(self.extents[last]));
        // Read along a row of the result, the source goes down a column.
        let is_matrix =
            self.b_step == 1 && self.a_step == columns && self.a[last] == 1 && self.b[last] == rows;
        let is_batch = match self.rank {
            1 => true,
            2 => self.a[0] == rows * columns && self.b[0] == rows * columns,
            _ => false,
        };
        let batch = if self.rank == 2 { self.extents[0] as usize } else { 1 };
        (is_matrix && is_batch && self.a_start == 0 && self.b_start == 0).then_some([
            batch,
            rows as usize,
            columns as usize,
        ])
    }

    /// What to launch for arrays of a dtype: the walk in pieces that kernels can number, each with its grid.
    pub(crate) fn launches(&self, dtype: DType) -> Vec<(Walk, Grid)> {
        let pack = 16 / dtype.size() as i64;
        let mut pieces = vec![];
        self.cut(LIMIT, &mut pieces);
        let launch = |mut walk: Walk| {
            walk.packed = i32::from(walk.is_packed(pack));
            let items = if walk.packed == 1 { walk.n / pack } else { walk.n };
            (walk, Grid::stride(items as usize))
        };
        pieces.into_iter().filter(|walk| !walk.is_empty()).map(launch).collect()
    }

    /// True when rows are whole packs, which begin where packs do.
    fn is_packed(&self, pack: i64) -> bool {
        let outer = |steps: &[i64]| steps[..self.rank as usize].iter().all(|step| step % pack == 0);
        let fits = |start: i64, step: i64, steps: &[i64]| {
            step == 0 || (step == 1 && start % pack == 0 && outer(steps))
        };
        self.inner % pack == 0
            && self.y_start % pack == 0
            && fits(self.a_start, self.a_step, &self.a)
            && fits(self.b_start, self.b_step, &self.b)
    }

    /// Cuts the outermost axis until each piece has fewer than `limit` elements, or is one row.
    fn cut(&self, limit: i64, pieces: &mut Vec<Walk>) {
        if self.rank == 0 || self.n < limit {
            return pieces.push(*self);
        }
        let extent = i64::from(self.extents[0]);
        let each = self.n / extent;
        let at_once = ((limit - 1) / each).max(1);
        for start in (0..extent).step_by(at_once as usize) {
            let count = at_once.min(extent - start);
            let mut piece = Walk {
                n: count * each,
                a_start: self.a_start + start * self.a[0],
                b_start: self.b_start + start * self.b[0],
                y_start: self.y_start + start * each,
                ..*self
            };
            piece.extents[0] = count as u32;
            if count == 1 {
                piece.drop_outermost();
                piece.cut(limit, pieces);
            } else {
                pieces.push(piece);
            }
        }
    }

    fn drop_outermost(&mut self) {
        self.rank -= 1;
        self.extents.rotate_left(1);
        self.a.rotate_left(1);
        self.b.rotate_left(1);
    }
}

/// A number that kernels take in 32 bits.
pub(super) fn int(value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| {
        CudaError::new(format!("an extent of {value} is more than kernels count: it is 2^31 - 1 at most"))
    })
}

/// Elements that a loop over packs has for a dense array.
pub(super) fn packs(slice: DeviceSlice) -> usize {
    slice.len.div_ceil(16 / slice.dtype.size())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernels make of a walk: where each element lies in `a`, `b` and the result.
    fn places(walk: &Walk) -> Vec<(i64, i64, i64)> {
        let place = |i: i64| {
            let (mut row, column) = (i / walk.inner, i % walk.inner);
            let (mut a, mut b) = (walk.a_start + column * walk.a_step, walk.b_start + column * walk.b_step);
            for axis in (0..walk.rank as usize).rev() {
                let extent = i64::from(walk.extents[axis]);
                (a, b) = (a + row % extent * walk.a[axis], b + row % extent * walk.b[axis]);
                row /= extent;
            }
            (a, b, walk.y_start + i)
        };
        (0..walk.n).map(place).collect()
    }

    #[test]
    fn neighbouring_axes_become_one() {
        let dense = Walk::new([(2, 12, 12), (3, 4, 4), (4, 1, 1)], 0, 0);
        assert!(dense.is_dense() && dense.inner == 24);
        let bias = Walk::new([(2, 12, 0), (3, 4, 0), (4, 1, 1)], 0, 0);
        assert_eq!((bias.rank, bias.inner, bias.extents[0]), (1, 4, 6));
        let scalar = Walk::new([(1, 5, 5), (1, 5, 5)], 0, 0);
        assert_eq!((scalar.n, scalar.rank, scalar.inner), (1, 0, 1));
    }

    #[test]
    fn pieces_cover_the_whole_in_order() {
        let axes = [(3, 40, -7), (5, 8, 0), (2, 0, 1), (4, 1, 3)];
        let whole = Walk::new(axes, 3, 50);
        for limit in [2, 5, 9, 17, 41, 81, 1000] {
            let mut pieces = vec![];
            whole.cut(limit, &mut pieces);
            assert!(pieces.iter().all(|piece| piece.n < limit || piece.rank == 0));
            let joined: Vec<_> = pieces.iter().flat_map(places).collect();
            assert_eq!(joined, places(&whole), "limit {limit}");
        }
    }

    #[test]
    fn transpositions_are_recognised() {
        // [2, 3, 20] to [2, 20, 3], written row by row.
        let walk = Walk::new([(2, 60, 60), (20, 1, 3), (3, 20, 1)], 0, 0);
        assert_eq!(walk.as_transposition(), Some([2, 3, 20]));
        assert_eq!(Walk::new([(20, 1, 3), (3, 20, 1)], 0, 0).as_transposition(), Some([1, 3, 20]));
        assert_eq!(Walk::new([(2, 60, 60), (20, 1, 1), (3, 20, 20)], 0, 0).as_transposition(), None);
        assert_eq!(Walk::new([(60, 1, 1)], 0, 0).as_transposition(), None);
    }

    #[test]
    fn packs_need_rows_that_begin_with_them() {
        let walk = |inner, step| Walk::new([(3, step, inner as isize), (inner, 1, 1)], 0, 0);
        assert!(walk(8, 16).is_packed(8) && !walk(8, 12).is_packed(8) && !walk(12, 16).is_packed(8));
        assert!(!Walk::new([(8, 1, 1)], 4, 0).is_packed(8));
        assert!(!Walk::new([(8, -1, 1)], 7, 0).is_packed(8));
        assert!(Walk::new([(8, 0, 1)], 3, 0).is_packed(8));
    }
}
