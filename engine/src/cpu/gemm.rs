//! Matrix multiplication (GEMM) with the crates `gemm-f32` and `gemm-f64`, split into blocks of the output by shape.
use super::parallel::{DisjointSlice, for_each_task};
use crate::DType;
use crate::dtype::Real;

/// Strided matrix operand: elements, row stride and column stride.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    data: &'a [T],
    row_step: usize,
    col_step: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Row-major matrix with rows of `cols` elements.
    pub fn row_major(data: &'a [T], cols: usize) -> Self {
        Matrix { data, row_step: cols, col_step: 1 }
    }

    /// Transpose of a row-major matrix with rows of `cols` elements.
    pub fn transposed(data: &'a [T], cols: usize) -> Self {
        Matrix { data, row_step: 1, col_step: cols }
    }

    fn covers(&self, rows: usize, cols: usize) -> bool {
        (rows - 1) * self.row_step + (cols - 1) * self.col_step < self.data.len()
    }
}

/// `c = a · b`, or `c += a · b` with `add`, for `a` `m × k`, `b` `k × n` and row-major `c` `m × n`.
pub fn gemm<T: Real>(m: usize, n: usize, k: usize, a: Matrix<T>, b: Matrix<T>, add: bool, c: &mut [T]) {
    assert_eq!(c.len(), m * n);
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !add {
            c.fill(T::zero());
        }
        return;
    }
    assert!(a.covers(m, k) && b.covers(k, n), "operands are too short for {m}x{k} times {k}x{n}");
    // Split the longer side into blocks of about four million multiply-adds, in whole register tiles.
    let (side, other) = (m.max(n), m.min(n));
    let block = ((1 << 22) / (other * k)).max(1).next_multiple_of(48).min(side);
    let out = DisjointSlice::new(c);
    for_each_task(side.div_ceil(block), |task| {
        let (start, end) = (task * block, ((task + 1) * block).min(side));
        let (rows, cols) = if m >= n { (start..end, 0..n) } else { (0..m, start..end) };
        let (a0, b0) = (rows.start * a.row_step, cols.start * b.col_step);
        let (a, b) = (Matrix { data: &a.data[a0..], ..a }, Matrix { data: &b.data[b0..], ..b });
        // SAFETY: the operands cover their extents (checked above); tasks write disjoint blocks of `c`.
        unsafe {
            let ptr = out.as_mut_ptr().add(rows.start * n + cols.start);
            let c = StridedMatrix { ptr, row_step: n, col_step: 1 };
            gemm_serial(rows.len(), cols.len(), k, a.into(), b.into(), add, c)
        };
    });
}

/// `batch` GEMMs of equal shape into consecutive row-major matrices of `c`. `operands(i)` returns the operands of entry `i`.
pub fn gemm_batch<'a, T: Real>(
    m: usize,
    n: usize,
    k: usize,
    batch: usize,
    operands: impl Fn(usize) -> (Matrix<'a, T>, Matrix<'a, T>) + Sync + Send,
    c: &mut [T],
) {
    assert_eq!(c.len(), batch * m * n);
    if m * n * k == 0 {
        return c.fill(T::zero());
    }
    let per_task = ((1 << 20) / (m * n * k)).max(1);
    let out = DisjointSlice::new(c);
    for_each_task(batch.div_ceil(per_task), |task| {
        for i in task * per_task..batch.min((task + 1) * per_task) {
            let (a, b) = operands(i);
            assert!(a.covers(m, k) && b.covers(k, n), "operands are too short for {m}x{k} times {k}x{n}");
            // SAFETY: the operands cover their extents; each entry has its own matrix of `c`.
            unsafe {
                let c = StridedMatrix { ptr: out.as_mut_ptr().add(i * m * n), row_step: n, col_step: 1 };
                gemm_serial(m, n, k, a.into(), b.into(), false, c)
            };
        }
    });
}

/// Strided matrix as raw pointer and strides.
#[derive(Clone, Copy)]
pub struct StridedMatrix<T> {
    /// First element.
    pub ptr: *mut T,
    /// Row stride, in elements.
    pub row_step: usize,
    /// Column stride, in elements.
    pub col_step: usize,
}

impl<T> From<Matrix<'_, T>> for StridedMatrix<T> {
    fn from(matrix: Matrix<T>) -> Self {
        let Matrix { data, row_step, col_step } = matrix;
        StridedMatrix { ptr: data.as_ptr().cast_mut(), row_step, col_step }
    }
}

/// `c = a · b`, or `c += a · b` with `add`, for `[m, k]` times `[k, n]`, on this thread: the caller runs in a task.
///
/// # Safety
/// The matrices must be readable over their whole extent; `c` must be writable and not overlap the others.
pub unsafe fn gemm_serial<T: Real>(
    m: usize,
    n: usize,
    k: usize,
    a: StridedMatrix<T>,
    b: StridedMatrix<T>,
    add: bool,
    c: StridedMatrix<T>,
) {
    // The register tiles expect a column-major output; a row-major one is the transpose of bᵀ · aᵀ.
    let transpose = c.col_step < c.row_step;
    let flip = |x: StridedMatrix<T>| StridedMatrix { row_step: x.col_step, col_step: x.row_step, ..x };
    let (m, n, a, b, c) = if transpose { (n, m, flip(b), flip(a), flip(c)) } else { (m, n, a, b, c) };
    macro_rules! call {
        ($gemm:expr, $type:ty) => {
            $gemm(
                m,
                n,
                k,
                c.ptr.cast::<$type>(),
                c.col_step as isize,
                c.row_step as isize,
                add,
                a.ptr.cast::<$type>().cast_const(),
                a.col_step as isize,
                a.row_step as isize,
                b.ptr.cast::<$type>().cast_const(),
                b.col_step as isize,
                b.row_step as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                gemm_common::Parallelism::None,
            )
        };
    }
    // SAFETY: the matrices are the caller's obligation, and T is the type of its DTYPE.
    unsafe {
        match T::DTYPE {
            DType::F32 => call!(gemm_f32::gemm::f32::get_gemm_fn(), f32),
            DType::F64 => call!(gemm_f64::gemm::f64::get_gemm_fn(), f64),
            other => unreachable!("CPU kernels compute in f32 and f64, not {other}"),
        }
    }
}
