//! Iteration over two arrays with independent strides (`kernels/cu/strided_pair.cuh`): axes are merged where possible, and large
//! iterations are split.
use crate::cuda::{CudaError, DeviceSlice, LaunchConfig, Result};
use crate::{DType, MAX_RANK};
use fornax_kernels::ByValue;
use fornax_kernels::arguments::{self, OUTER_AXES};

/// Iteration over two arrays `a` and `b` with independent strides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StridedPair(arguments::StridedPair);

// One axis of a tensor is always that of the rows.
const _: () = assert!(OUTER_AXES >= MAX_RANK - 1);

/// Kernels index elements of more than one axis in 32 bits, so there must be fewer than this.
const MAX_ELEMENTS: i64 = 1 << 32;

/// Axis: its extent, and its strides in both arrays.
pub(crate) type Axis = (usize, isize, isize);

impl StridedPair {
    /// Iteration over axes, outermost first, from the given offsets. Errors if an axis has more than 2^32 - 1 elements and is neither the
    /// innermost nor contiguous with the next.
    pub(crate) fn new(
        axes: impl IntoIterator<Item = Axis>,
        a_start: usize,
        b_start: usize,
    ) -> Result<StridedPair> {
        let mut merged: Vec<Axis> = vec![];
        let mut n = 1;
        for (extent, a, b) in axes {
            n *= extent;
            let length = extent as isize;
            match merged.last_mut() {
                _ if extent == 1 => {}
                // The outer axis is contiguous with the inner one in both arrays: merge them.
                Some(last) if last.1 == a * length && last.2 == b * length => *last = (last.0 * extent, a, b),
                _ => merged.push((extent, a, b)),
            }
        }
        let (inner, a_step, b_step) = merged.pop().unwrap_or((1, 1, 1));
        let mut pair = arguments::StridedPair {
            n: n as i64,
            inner: inner as i64,
            a_start: a_start as i64,
            b_start: b_start as i64,
            a_stride: a_step as i64,
            b_stride: b_step as i64,
            rank: merged.len() as i32,
            ..ByValue::zeroed()
        };
        for (axis, (extent, a, b)) in merged.into_iter().enumerate() {
            let extent = u32::try_from(extent).map_err(|_| {
                CudaError::new(format!("an axis of {extent} elements is too long: the maximum is 2^32 - 1"))
            })?;
            (pair.extents[axis], pair.a[axis], pair.b[axis]) = (extent, a as i64, b as i64);
        }
        Ok(StridedPair(pair))
    }

    /// True if there are no elements.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.n == 0
    }

    /// True if both arrays are contiguous from the first element to the last.
    pub(crate) fn is_dense(&self) -> bool {
        self.0.rank == 0 && self.0.a_stride == 1 && self.0.b_stride == 1
    }

    /// Returns `[batch, rows, columns]` if this transposes dense matrices of that shape, written row by row.
    pub(crate) fn as_transpose(&self) -> Option<[usize; 3]> {
        let last = self.0.rank as usize - usize::from(self.0.rank > 0);
        let (rows, columns) = (self.0.inner, i64::from(self.0.extents[last]));
        // A row of the result is a column of the source.
        let is_matrix = self.0.b_stride == 1
            && self.0.a_stride == columns
            && self.0.a[last] == 1
            && self.0.b[last] == rows;
        let is_batch = match self.0.rank {
            1 => true,
            2 => self.0.a[0] == rows * columns && self.0.b[0] == rows * columns,
            _ => false,
        };
        let batch = if self.0.rank == 2 { self.0.extents[0] as usize } else { 1 };
        (is_matrix && is_batch && self.0.a_start == 0 && self.0.b_start == 0).then_some([
            batch,
            rows as usize,
            columns as usize,
        ])
    }

    /// Launches for arrays of a dtype: pieces that kernels can index in 32 bits, each with its launch configuration.
    pub(crate) fn launches(&self, dtype: DType) -> Vec<(arguments::StridedPair, LaunchConfig)> {
        let pack = 16 / dtype.size() as i64;
        let mut pieces = vec![];
        self.split(MAX_ELEMENTS, &mut pieces);
        let launch = |pair: StridedPair| {
            let is_packed = pair.is_packed(pack);
            let items = if is_packed { pair.0.n / pack } else { pair.0.n };
            let argument = arguments::StridedPair { packed: i32::from(is_packed), ..pair.0 };
            (argument, LaunchConfig::grid_stride(items as usize))
        };
        pieces.into_iter().filter(|pair| !pair.is_empty()).map(launch).collect()
    }

    /// True if rows consist of whole packs that start at multiples of a pack.
    fn is_packed(&self, pack: i64) -> bool {
        let outer = |strides: &[i64]| strides[..self.0.rank as usize].iter().all(|stride| stride % pack == 0);
        let fits = |start: i64, stride: i64, strides: &[i64]| {
            stride == 0 || (stride == 1 && start % pack == 0 && outer(strides))
        };
        self.0.inner % pack == 0
            && self.0.y_start % pack == 0
            && fits(self.0.a_start, self.0.a_stride, &self.0.a)
            && fits(self.0.b_start, self.0.b_stride, &self.0.b)
    }

    /// Splits the outermost axes until each piece has fewer than `limit` elements, or is one row.
    fn split(&self, limit: i64, pieces: &mut Vec<StridedPair>) {
        if self.0.rank == 0 || self.0.n < limit {
            return pieces.push(*self);
        }
        let extent = i64::from(self.0.extents[0]);
        let each = self.0.n / extent;
        let at_once = ((limit - 1) / each).max(1);
        for start in (0..extent).step_by(at_once as usize) {
            let count = at_once.min(extent - start);
            let mut piece = StridedPair(arguments::StridedPair {
                n: count * each,
                a_start: self.0.a_start + start * self.0.a[0],
                b_start: self.0.b_start + start * self.0.b[0],
                y_start: self.0.y_start + start * each,
                ..self.0
            });
            piece.0.extents[0] = count as u32;
            if count == 1 {
                piece.drop_outermost();
                piece.split(limit, pieces);
            } else {
                pieces.push(piece);
            }
        }
    }

    fn drop_outermost(&mut self) {
        self.0.rank -= 1;
        self.0.extents.rotate_left(1);
        self.0.a.rotate_left(1);
        self.0.b.rotate_left(1);
    }
}

/// Number of packs of 16 bytes in a dense slice, rounded up.
pub(crate) fn num_packs(slice: DeviceSlice) -> usize {
    slice.len.div_ceil(16 / slice.dtype.size())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair<const N: usize>(axes: [Axis; N], a_start: usize, b_start: usize) -> StridedPair {
        StridedPair::new(axes, a_start, b_start).expect("short axes")
    }

    /// Offsets of each element in `a`, `b` and the result, computed as the kernels do.
    fn offsets(pair: &StridedPair) -> Vec<(i64, i64, i64)> {
        let offset = |i: i64| {
            let (mut row, column) = (i / pair.0.inner, i % pair.0.inner);
            let (mut a, mut b) =
                (pair.0.a_start + column * pair.0.a_stride, pair.0.b_start + column * pair.0.b_stride);
            for axis in (0..pair.0.rank as usize).rev() {
                let extent = i64::from(pair.0.extents[axis]);
                (a, b) = (a + row % extent * pair.0.a[axis], b + row % extent * pair.0.b[axis]);
                row /= extent;
            }
            (a, b, pair.0.y_start + i)
        };
        (0..pair.0.n).map(offset).collect()
    }

    #[test]
    fn contiguous_axes_are_merged() {
        let dense = pair([(2, 12, 12), (3, 4, 4), (4, 1, 1)], 0, 0);
        assert!(dense.is_dense() && dense.0.inner == 24);
        let bias = pair([(2, 12, 0), (3, 4, 0), (4, 1, 1)], 0, 0);
        assert_eq!((bias.0.rank, bias.0.inner, bias.0.extents[0]), (1, 4, 6));
        let scalar = pair([(1, 5, 5), (1, 5, 5)], 0, 0);
        assert_eq!((scalar.0.n, scalar.0.rank, scalar.0.inner), (1, 0, 1));
    }

    #[test]
    fn pieces_cover_all_elements_in_order() {
        let axes = [(3, 40, -7), (5, 8, 0), (2, 0, 1), (4, 1, 3)];
        let whole = pair(axes, 3, 50);
        for limit in [2, 5, 9, 17, 41, 81, 1000] {
            let mut pieces = vec![];
            whole.split(limit, &mut pieces);
            assert!(pieces.iter().all(|piece| piece.0.n < limit || piece.0.rank == 0));
            let joined: Vec<_> = pieces.iter().flat_map(offsets).collect();
            assert_eq!(joined, offsets(&whole), "limit {limit}");
        }
    }

    #[test]
    fn transpose_is_recognised() {
        // [2, 3, 20] to [2, 20, 3], written row by row.
        let transposed = pair([(2, 60, 60), (20, 1, 3), (3, 20, 1)], 0, 0);
        assert_eq!(transposed.as_transpose(), Some([2, 3, 20]));
        assert_eq!(pair([(20, 1, 3), (3, 20, 1)], 0, 0).as_transpose(), Some([1, 3, 20]));
        assert_eq!(pair([(2, 60, 60), (20, 1, 1), (3, 20, 20)], 0, 0).as_transpose(), None);
        assert_eq!(pair([(60, 1, 1)], 0, 0).as_transpose(), None);
    }

    #[test]
    fn packed_requires_aligned_rows() {
        let rows = |inner: usize, step| pair([(3, step, inner as isize), (inner, 1, 1)], 0, 0);
        assert!(rows(8, 16).is_packed(8) && !rows(8, 12).is_packed(8) && !rows(12, 16).is_packed(8));
        assert!(!pair([(8, 1, 1)], 4, 0).is_packed(8));
        assert!(!pair([(8, -1, 1)], 7, 0).is_packed(8));
        assert!(pair([(8, 0, 1)], 3, 0).is_packed(8));
    }
}
