//! Linear (fully connected) layer, fused with an activation.
mod attention;
mod gpu;
mod matmul;
mod mlp;

pub use attention::AttentionMask;

use super::gpu::OnGpu;
use super::half::widened;
use crate::cpu::conv2d::has_bf16;
use crate::cpu::gemm::{CONV_MIN_MACS, matmul};
use crate::{Activation, Conv2dOptions, DType, Error, Result, Tensor, cpu};

impl Tensor {
    /// `y = x · wᵀ + b` over the last axis: x `[…, in]`, weight `[out, in]`, bias `[out]`, y `[…, out]`. All operands have one dtype: f32,
    /// f16, bf16, or f64 on the CPU.
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        self.linear_act(weight, bias, Activation::Identity)
    }

    /// `activation(x · wᵀ + b)` as one operation; shapes and dtypes as for [`Tensor::linear`]. Bias and activation are one pass after the
    /// matmul; on a GPU they are in its epilogue for ReLU and GELU's tanh approximation.
    pub fn linear_act(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Tensor> {
        let (operands, [m, n, k]) = check("linear", self, weight, bias)?;
        let shape = self.shape().with(self.rank() - 1, n)?;
        if let Some(on) = OnGpu::of("linear", &operands)? {
            let layer = gpu::LinearLayer { x: self, weight, bias, sizes: [m, n, k] };
            return gpu::forward(&on, &layer, activation);
        }
        if self.dtype() == DType::BF16 && m > 0 && m * n * k >= CONV_MIN_MACS && has_bf16() {
            // A 1x1 convolution, which uses the CPU's bf16 instructions.
            let y = self.reshape([1, m, 1, k])?.conv2d(
                &weight.reshape([n, 1, 1, k])?,
                bias,
                &Conv2dOptions::default(),
            )?;
            return y.reshape(shape)?.activate(activation);
        }
        if self.is_half_on_cpu() {
            let bias = widened(bias)?;
            return self
                .widened()?
                .linear_act(&weight.widened()?, bias.as_ref(), activation)?
                .rounded_as(self);
        }
        // ReLU's derivative follows from its output; other activations save their input.
        let is_relu = activation == Activation::Relu;
        let (y, saved) = dispatch_real!("linear", [("x", self), ("weight", weight)], T => {
            let (x, w) = (self.read::<T>()?, weight.read::<T>()?);
            let b = bias.map(|b| b.read::<T>()).transpose()?;
            let b = b.as_deref();
            if is_relu || activation == Activation::Identity {
                let y = Tensor::build(shape, |y: &mut [T]| {
                    matmul(m, n, k, (&x, false), (&w, true), y);
                    cpu::bias_act::add_bias(b, is_relu, n, y);
                })?;
                Ok((y.clone(), is_relu.then_some(y)))
            } else {
                let z = Tensor::build(shape, |z: &mut [T]| matmul(m, n, k, (&x, false), (&w, true), z))?;
                let y = {
                    let mut z = z.write::<T>()?;
                    Tensor::build(shape, |y: &mut [T]| cpu::bias_act::add_bias_activate(activation, b, n, &mut z, y))?
                };
                Ok((y, Some(z)))
            }
        })?;
        let composed = ComposedBackward::of(self, weight, bias, activation, saved.as_ref());
        let kernels = || {
            let (x, w, has_bias) = (self.detach(), weight.detach(), bias.is_some());
            move |grad: Tensor, needs: &[bool]| {
                dispatch_real!("linear", [("x", &x), ("weight", &w)], T => {
                    let d = match &saved {
                        None => grad,
                        Some(saved) => {
                            let (saved, dy) = (saved.read::<T>()?, grad.read::<T>()?);
                            Tensor::build(*grad.shape(), |d: &mut [T]| cpu::activation::backward(activation, &saved, &dy, d))?
                        }
                    };
                    let dy = d.read::<T>()?;
                    let dx = needs[0].then(|| {
                        let w = w.read::<T>()?;
                        Tensor::build(*x.shape(), |dx: &mut [T]| matmul(m, k, n, (&dy, false), (&w, false), dx))
                    });
                    let dw = needs[1].then(|| {
                        let x = x.read::<T>()?;
                        Tensor::build(*w.shape(), |dw: &mut [T]| matmul(n, k, m, (&dy, true), (&x, false), dw))
                    });
                    let mut grads = vec![dx.transpose()?, dw.transpose()?];
                    if has_bias {
                        let db = needs[2].then(|| Tensor::build([n], |db: &mut [T]| super::reduce::cpu::column_sums(&dy, n, db)));
                        grads.push(db.transpose()?);
                    }
                    Ok(grads)
                })
            }
        };
        let inputs: Vec<&Tensor> = [self, weight].into_iter().chain(bias).collect();
        Ok(y.with_fused_backward("linear", &inputs, kernels, || {
            move |grad: Tensor, needs: &[bool]| composed.backward(&grad, needs)
        }))
    }
}

/// The backward pass of a linear layer as operations.
struct ComposedBackward {
    x: Tensor,
    weight: Tensor,
    bias: Option<Tensor>,
    activation: Activation,
    /// ReLU's output, which determines its derivative.
    output: Option<Tensor>,
}

impl ComposedBackward {
    fn of(
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        activation: Activation,
        saved: Option<&Tensor>,
    ) -> ComposedBackward {
        let output = saved.filter(|_| activation == Activation::Relu).cloned();
        ComposedBackward { x: x.clone(), weight: weight.clone(), bias: bias.cloned(), activation, output }
    }

    fn backward(&self, grad: &Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let d = match (&self.output, self.activation) {
            (_, Activation::Identity) => grad.clone(),
            (Some(y), activation) => y.activation_gradient(activation, grad)?,
            (None, activation) => {
                self.x.linear(&self.weight, self.bias.as_ref())?.activation_gradient(activation, grad)?
            }
        };
        let (n, k) = (self.weight.dims()[0], self.weight.dims()[1]);
        let rows = |t: &Tensor, columns: usize| t.reshape([t.numel() / columns.max(1), columns]);
        let d = rows(&d, n)?;
        let dx = needs[0].then(|| d.matmul(&self.weight)?.reshape(*self.x.shape()));
        let dw = needs[1].then(|| d.matmul_transposed(&rows(&self.x, k)?, true, false));
        let mut grads = vec![dx.transpose()?, dw.transpose()?];
        if self.bias.is_some() {
            grads.push(needs[2].then(|| d.sum(&[0], false)).transpose()?);
        }
        Ok(grads)
    }
}

/// Operands with their names.
type Operands<'a> = Vec<(&'static str, &'a Tensor)>;

/// Checks the operands. Returns them by name, and the rows of x, output features and input features.
fn check<'a>(
    op: &'static str,
    x: &'a Tensor,
    weight: &'a Tensor,
    bias: Option<&'a Tensor>,
) -> Result<(Operands<'a>, [usize; 3])> {
    let mut operands = vec![("x", x), ("weight", weight)];
    operands.extend(bias.map(|b| ("bias", b)));
    let (Some(&k), &[n, w_in]) = (x.dims().last(), weight.dims()) else {
        return Err(Error::shape(op, &operands, "needs x [..., in] and weight [out, in]"));
    };
    if w_in != k || bias.is_some_and(|b| b.dims() != [n]) {
        let why = format!("x has {k} features: weight must be [out, {k}] and bias [out]");
        return Err(Error::shape(op, &operands, why));
    }
    super::same_dtype(op, &operands)?;
    Ok((operands, [x.numel() / k.max(1), n, k]))
}
