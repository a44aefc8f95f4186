//! Matrix multiplication, batched and broadcasting.
use super::cpu::matmul;
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cpu::gemm::{Matrix, gemm_batch};
use crate::cuda::cublaslt::Gemm;
use crate::cuda::{self, DeviceSlice, Gpu};
use crate::dtype::Real;
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, for_real};
use crate::ops::shape::broadcast_steps;
use crate::{Error, Result, Shape, Tensor};
use std::sync::Arc;

impl Tensor {
    /// Matrix multiplication over the last two axes; leading axes broadcast. A vector on the left is a row, on the right a column,
    /// and its axis is dropped from the result, as in PyTorch's `matmul`. Both operands have one dtype: f32, f16, bf16, or f64 on the CPU.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        self.matmul_transposed(other, false, false)
    }

    /// [`Tensor::matmul`] of the operands with their last two axes swapped where requested, without a copy.
    pub fn matmul_transposed(&self, other: &Tensor, transpose_a: bool, transpose_b: bool) -> Result<Tensor> {
        let operands = [("a", self), ("b", other)];
        if self.rank() == 0 || other.rank() == 0 {
            return Err(Error::shape("matmul", &operands, "a scalar has no rows: use mul"));
        }
        if self.rank() == 1 || other.rank() == 1 {
            return self.matmul_vectors(other, transpose_a, transpose_b);
        }
        apply(BatchedMatmul::new(self, other, transpose_a, transpose_b)?, &[self, other])
    }

    fn matmul_vectors(&self, other: &Tensor, transpose_a: bool, transpose_b: bool) -> Result<Tensor> {
        let lift = |t: &Tensor, left: bool| match t.dims() {
            &[n] => t.reshape(if left { [1, n] } else { [n, 1] }),
            _ => Ok(t.clone()),
        };
        let y = lift(self, true)?.matmul_transposed(
            &lift(other, false)?,
            transpose_a && self.rank() > 1,
            transpose_b && other.rank() > 1,
        )?;
        let mut dims = y.dims().to_vec();
        if other.rank() == 1 {
            dims.pop();
        }
        if self.rank() == 1 {
            let row = dims.len() - usize::from(other.rank() > 1) - 1;
            dims.remove(row);
        }
        y.reshape(dims)
    }
}

/// Extents of a batched matmul, and the offsets of each batch entry's operands.
struct BatchedMatmul {
    m: usize,
    n: usize,
    k: usize,
    shape: Shape,
    a_cols: usize,
    b_cols: usize,
    transpose: (bool, bool),
    starts: Vec<(usize, usize)>,
}

impl BatchedMatmul {
    fn new(a: &Tensor, b: &Tensor, transpose_a: bool, transpose_b: bool) -> Result<BatchedMatmul> {
        let matrix = |t: &Tensor| (t.dims()[t.rank() - 2], t.dims()[t.rank() - 1]);
        let ((a_rows, a_cols), (b_rows, b_cols)) = (matrix(a), matrix(b));
        let (m, k) = if transpose_a { (a_cols, a_rows) } else { (a_rows, a_cols) };
        let (k_b, n) = if transpose_b { (b_cols, b_rows) } else { (b_rows, b_cols) };
        let lead = |t: &Tensor| Shape::must_fit(&t.dims()[..t.rank() - 2]);
        let (lead_a, lead_b) = (lead(a), lead(b));
        let (Some(batch), true) = (lead_a.broadcast(&lead_b)?, k == k_b) else {
            return Err(Error::shape(
                "matmul",
                &[("a", a), ("b", b)],
                "inner extents must be equal and leading axes broadcast",
            ));
        };
        let (steps_a, steps_b) = (broadcast_steps(&lead_a, &batch), broadcast_steps(&lead_b, &batch));
        let strides = batch.strides();
        let starts = (0..batch.numel())
            .map(|i| {
                (0..batch.rank()).fold((0, 0), |(x, y), axis| {
                    let at = i / strides[axis] % batch[axis];
                    (x + at * steps_a[axis] * m * k, y + at * steps_b[axis] * k * n)
                })
            })
            .collect();
        let mut dims = batch.dims().to_vec();
        dims.extend([m, n]);
        Ok(BatchedMatmul {
            m,
            n,
            k,
            shape: Shape::new(&dims)?,
            a_cols,
            b_cols,
            transpose: (transpose_a, transpose_b),
            starts,
        })
    }

    fn run<T: Real>(&self, a: &[T], b: &[T], y: &mut [T]) {
        let (m, n, k) = (self.m, self.n, self.k);
        let matrix = |data, cols, transposed| match transposed {
            true => Matrix::transposed(data, cols),
            false => Matrix::row_major(data, cols),
        };
        let operands = |i: usize| {
            let (ia, ib) = self.starts[i];
            (
                matrix(&a[ia..ia + m * k], self.a_cols, self.transpose.0),
                matrix(&b[ib..ib + k * n], self.b_cols, self.transpose.1),
            )
        };
        if let [(ia, ib)] = self.starts[..] {
            let (a, b) = (&a[ia..ia + m * k], &b[ib..ib + k * n]);
            return matmul(m, n, k, (a, self.transpose.0), (b, self.transpose.1), y);
        }
        gemm_batch(m, n, k, self.starts.len(), operands, y);
    }

    /// On a GPU: one strided-batched matmul where the operands lie at constant strides, else one matmul per batch entry.
    fn run_gpu(&self, gpu: &Arc<Gpu>, a: DeviceSlice, b: DeviceSlice, y: DeviceSlice) -> cuda::Result<()> {
        let (m, n, k) = (self.m, self.n, self.k);
        let one = Gemm {
            transpose_a: self.transpose.0,
            transpose_b: self.transpose.1,
            ..Gemm::new(y.dtype, m, n, k)
        };
        let (step_a, step_b) = self.starts.get(1).copied().unwrap_or_default();
        let even = |(i, s): (usize, &(usize, usize))| *s == (i * step_a, i * step_b);
        if self.starts.iter().enumerate().all(even) {
            let batched = Gemm { batch: self.starts.len(), stride_a: step_a, stride_b: step_b, ..one };
            return super::cuda::gemm(gpu, &batched, a, b, y);
        }
        for (i, (at_a, at_b)) in self.starts.iter().enumerate() {
            let (a, b) = (a.subslice(*at_a, m * k), b.subslice(*at_b, k * n));
            super::cuda::gemm(gpu, &one, a, b, y.subslice(i * m * n, m * n))?;
        }
        Ok(())
    }
}

impl Op for BatchedMatmul {
    fn spec(&self) -> Spec {
        Spec::new("matmul", &["a", "b"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::new(self.shape, x[0].dtype())?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_real!(call, T => self.run::<T>(&call.x(0)?, &call.x(1)?, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> cuda::Result<()> {
        self.run_gpu(gpu, x[0], x[1], y[0])
    }
}

impl Derivative for BatchedMatmul {
    fn saves(&self, needs: &[bool]) -> Saves {
        Saves::default().and_operand_if(needs[1], 0).and_operand_if(needs[0], 1)
    }

    /// With A = op(a), B = op(b): dA = g Bᵀ, dB = Aᵀ g, transposed back where the operand was.
    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        let (transpose_a, transpose_b) = self.transpose;
        let da = needs[0].then(|| {
            let b = saved.operand(1);
            let da = match transpose_a {
                false => dy.matmul_transposed(b, false, !transpose_b)?,
                true => b.matmul_transposed(&dy, transpose_b, true)?,
            };
            da.sum_to(saved.shape(0))
        });
        let db = needs[1].then(|| {
            let a = saved.operand(0);
            let db = match transpose_b {
                false => a.matmul_transposed(&dy, !transpose_a, false)?,
                true => dy.matmul_transposed(a, true, transpose_a)?,
            };
            db.sum_to(saved.shape(1))
        });
        Ok(vec![da.transpose()?, db.transpose()?])
    }
}
