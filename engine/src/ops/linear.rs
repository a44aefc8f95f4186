//! Fully connected layer.
use crate::cpu;
use crate::cpu::gemm::product;
use crate::{Error, Result, Tensor};

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
}
