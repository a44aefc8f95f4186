//! Fully connected layer.
use super::gpu::OnGpu;
use super::half::widened;
use crate::cpu::gemm::product;
use crate::cuda::blas::{Epilogue, Product};
use crate::cuda::matmul;
use crate::{Error, Result, Tensor, cpu, cuda};

impl Tensor {
    /// `y = x · wᵀ + b` over the last axis: x `[…, in]`, weight `[out, in]`, bias `[out]`, y `[…, out]`. f32, f64.
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let mut operands = vec![("x", self), ("weight", weight)];
        operands.extend(bias.map(|b| ("bias", b)));
        let (Some(&k), &[n, w_in]) = (self.dims().last(), weight.dims()) else {
            return Err(Error::shape("linear", &operands, "needs x [..., in] and weight [out, in]"));
        };
        if w_in != k || bias.is_some_and(|b| b.dims() != [n]) {
            return Err(Error::shape(
                "linear",
                &operands,
                format!("x has {k} features: weight must be [out, {k}] and bias [out]"),
            ));
        }
        super::same_dtype("linear", &operands)?;
        let m = self.numel() / k.max(1);
        let shape = self.shape().with(self.rank() - 1, n);
        if let Some(on) = OnGpu::of("linear", &operands)? {
            return self.linear_on(&on, weight, bias, [m, n, k]);
        }
        if self.is_half_on_cpu() {
            let bias = widened(bias)?;
            return self.widened()?.linear(&weight.widened()?, bias.as_ref())?.rounded_as(self);
        }
        let y = dispatch_real!("linear", [("x", self), ("weight", weight)], T => {
            let (x, w) = (self.read::<T>()?, weight.read::<T>()?);
            let b = bias.map(|b| b.read::<T>()).transpose()?;
            Tensor::build(shape, |y: &mut [T]| {
                product(m, n, k, (&x, false), (&w, true), y);
                if let Some(b) = &b {
                    y.chunks_exact_mut(n.max(1)).for_each(|row| row.iter_mut().zip(b.iter()).for_each(|(y, b)| *y += *b));
                }
            })
        })?;
        let mut inputs = vec![self, weight];
        inputs.extend(bias);
        Ok(y.recorded("linear", &inputs, || {
            let (x, w, has_bias) = (self.detach(), weight.detach(), bias.is_some());
            move |grad: Tensor, needs: &[bool]| {
                dispatch_real!("linear", [("x", &x), ("weight", &w)], T => {
                    let dy = grad.read::<T>()?;
                    let dx = needs[0].then(|| {
                        let w = w.read::<T>()?;
                        Tensor::build(*x.shape(), |dx: &mut [T]| product(m, k, n, (&dy, false), (&w, false), dx))
                    });
                    let dw = needs[1].then(|| {
                        let x = x.read::<T>()?;
                        Tensor::build(*w.shape(), |dw: &mut [T]| product(n, k, m, (&dy, true), (&x, false), dw))
                    });
                    let mut grads = vec![dx.transpose()?, dw.transpose()?];
                    if has_bias {
                        let db = needs[2].then(|| Tensor::build([n], |db: &mut [T]| cpu::reduce::column_sums(&dy, n, db)));
                        grads.push(db.transpose()?);
                    }
                    Ok(grads)
                })
            }
        }))
    }

    /// On a GPU, the bias and its gradient in the products' epilogues where cuBLASLt has them.
    fn linear_on(
        &self,
        on: &OnGpu,
        weight: &Tensor,
        bias: Option<&Tensor>,
        [m, n, k]: [usize; 3],
    ) -> Result<Tensor> {
        let y = on.build(self.shape().with(self.rank() - 1, n), self.dtype(), |y| {
            let (x, w) = (self.held(), weight.held());
            let (x, w) = (x.slice(), w.slice());
            let product = Product { transpose_b: true, ..Product::new(self.dtype(), m, n, k) };
            let Some(bias) = bias else { return matmul::multiply(&on.gpu, &product, x, w, y) };
            let bias = bias.held();
            if !matmul::multiply_with(&on.gpu, &product, Epilogue::Bias, [x, w, y, bias.slice()])? {
                matmul::multiply(&on.gpu, &product, x, w, y)?;
                cuda::binary::add_to_rows(&on.gpu, y, bias.slice())?;
            }
            Ok(())
        })?;
        let mut inputs = vec![self, weight];
        inputs.extend(bias);
        Ok(y.recorded("linear", &inputs, || {
            let (x, w, has_bias) = (self.detach(), weight.detach(), bias.is_some());
            move |grad: Tensor, needs: &[bool]| {
                let operands = [("x", &x), ("weight", &w), ("grad", &grad)];
                let on = OnGpu::back("linear", &operands)?;
                let held = [&x, &w, &grad].map(Tensor::held);
                let [of_x, of_w, dy] = held.each_ref().map(|t| t.slice());
                let dx = needs[0].then(|| {
                    let product = Product::new(x.dtype(), m, k, n);
                    on.build(*x.shape(), x.dtype(), |dx| matmul::multiply(&on.gpu, &product, dy, of_w, dx))
                });
                let wants_bias = has_bias && needs[2];
                let mut db = wants_bias.then(|| on.room([n], w.dtype())).transpose()?;
                let dw = needs[1].then(|| {
                    let product = Product { transpose_a: true, ..Product::new(x.dtype(), n, k, m) };
                    on.build([n, k], w.dtype(), |dw| {
                        if let Some(of_b) = &db {
                            let of_b = of_b.held();
                            let slices = [dy, of_x, dw, of_b.slice()];
                            if matmul::multiply_with(&on.gpu, &product, Epilogue::SumA, slices)? {
                                return Ok(());
                            }
                        }
                        db = None;
                        matmul::multiply(&on.gpu, &product, dy, of_x, dw)
                    })
                });
                let mut grads = vec![dx.transpose()?, dw.transpose()?];
                if has_bias {
                    if wants_bias && (db.is_none() || !needs[1]) {
                        db = Some(grad.reshape([m, n])?.sum(&[0], false)?);
                    }
                    grads.push(db);
                }
                Ok(grads)
            }
        }))
    }
}
