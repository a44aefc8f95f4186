//! Linear (fully connected) layer, fused with an activation.
mod attention;
mod cpu;
mod cuda;
mod matmul;
mod mlp;

pub use attention::AttentionMask;

use crate::autograd::{Derivative, Gradients, Saved, Saves, is_grad_enabled, is_tracked};
use crate::cuda::cublaslt::{Epilogue, Gemm};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, for_real, launch};
use crate::ops::conv::cpu::has_bf16;
use crate::ops::elementwise::cuda as elementwise;
use crate::{Activation, Conv2dOptions, DType, Device, Error, Result, Shape, Tensor};
use std::sync::Arc;

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
        let operands: Vec<&Tensor> = [self, weight].into_iter().chain(bias).collect();
        let sizes = sizes("linear", &operands)?;
        let [m, n, k] = sizes;
        let is_bf16 = operands.iter().all(|t| t.dtype() == DType::BF16 && t.device() == Device::Cpu);
        if is_bf16 && m > 0 && m * n * k >= cpu::CONV_MIN_MACS && has_bf16() {
            // A 1x1 convolution, which uses the CPU's bf16 instructions.
            let (x, weight) = (self.reshape([1, m, 1, k])?, weight.reshape([n, 1, 1, k])?);
            let y = x.conv2d(&weight, bias, &Conv2dOptions::default())?;
            return y.reshape(self.shape().with(self.rank() - 1, n)?)?.activate(activation);
        }
        apply(Linear { activation, sizes, is_tracked: is_tracked(&operands) }, &operands)
    }
}

const OPERANDS: [&str; 3] = ["x", "weight", "bias"];

/// Rows of x, output features and input features of `[x, weight]` or `[x, weight, bias]`, checked.
fn sizes(op: &'static str, operands: &[&Tensor]) -> Result<[usize; 3]> {
    let fail = |why: String| {
        let named: Vec<_> = OPERANDS.into_iter().zip(operands.iter().copied()).collect();
        Err(Error::shape(op, &named, why))
    };
    let (x, weight) = (operands[0], operands[1]);
    let (Some(&k), &[n, w_in]) = (x.dims().last(), weight.dims()) else {
        return fail("needs x [..., in] and weight [out, in]".into());
    };
    if w_in != k || operands.get(2).is_some_and(|b| b.dims() != [n]) {
        return fail(format!("x has {k} features: weight must be [out, {k}] and bias [out]"));
    }
    Ok([x.numel() / k.max(1), n, k])
}

/// `y = activation(x wᵀ + b)`, and the activation's input where the backward pass reads it.
struct Linear {
    activation: Activation,
    /// Rows of x, output features and input features.
    sizes: [usize; 3],
    is_tracked: bool,
}

impl Linear {
    /// True if the activation's input is a result. The derivative of ReLU follows from its output.
    fn keeps_input(&self) -> bool {
        self.is_tracked && !matches!(self.activation, Activation::Identity | Activation::Relu)
    }
}

impl Op for Linear {
    fn spec(&self) -> Spec {
        Spec::new("linear", &OPERANDS)
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let y = TensorInfo::of(x[0]).with_shape(x[0].shape().with(x[0].rank() - 1, self.sizes[1])?);
        Ok(vec![y; 1 + usize::from(self.keeps_input())])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let f = self.activation;
        let [m, n, k] = self.sizes;
        for_real!(call, T => {
            let (x, w, b, mut y) = (call.x::<T>(0)?, call.x(1)?, call.optional(2)?, call.y(0)?);
            if matches!(f, Activation::Identity | Activation::Relu) {
                cpu::matmul(m, n, k, (&x, false), (&w, true), &mut y);
                cpu::add_bias(b.as_deref(), f == Activation::Relu, n, &mut y);
            } else if self.keeps_input() {
                let mut z = call.y(1)?;
                cpu::matmul(m, n, k, (&x, false), (&w, true), &mut z);
                cpu::add_bias_activate(f, b.as_deref(), n, &mut z, &mut y);
            } else {
                crate::cpu::scratch::with(y.len(), |z: &mut [T]| {
                    cpu::matmul(m, n, k, (&x, false), (&w, true), z);
                    cpu::add_bias_activate(f, b.as_deref(), n, z, &mut y);
                });
            }
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        let [m, n, k] = self.sizes;
        let gemm = Gemm { transpose_b: true, ..Gemm::new(y[0].dtype, m, n, k) };
        let epilogue = match self.activation {
            Activation::Identity => return affine(gpu, &gemm, x, y[0]),
            Activation::Relu => Some(Epilogue::BiasRelu),
            // cuBLASLt's GELU is the tanh approximation.
            Activation::GeluTanh if self.is_tracked => Some(Epilogue::BiasGeluTanhAux),
            Activation::GeluTanh => Some(Epilogue::BiasGeluTanh),
            _ => None,
        };
        if let (Some(epilogue), Some(bias)) = (epilogue, x.get(2))
            && cuda::gemm_with_epilogue(gpu, &gemm, epilogue, [x[0], x[1], y[0], *bias], y.get(1).copied())?
        {
            return Ok(());
        }
        let scratch = y.get(1).is_none().then(|| gpu.empty(y[0].len, y[0].dtype)).transpose()?;
        let z = scratch.as_ref().map_or_else(|| y[1], |scratch| scratch.as_slice(y[0].dtype));
        affine(gpu, &gemm, x, z)?;
        elementwise::activation::forward(gpu, self.activation, z, y[0])
    }
}

impl Derivative for Linear {
    fn saves(&self, needs: &[bool]) -> Saves {
        match self.activation {
            Activation::Identity => Saves::default().and_operand_if(needs[1], 0).and_operand_if(needs[0], 1),
            Activation::Relu => Saves::results(&[0]).and_operand_if(needs[1], 0).and_operand_if(needs[0], 1),
            // A tracked backward pass computes the activation's input again.
            _ => Saves::all_operands().and_results(&[1]),
        }
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        let d = match self.activation {
            Activation::Identity => dy,
            Activation::Relu => saved.result(0).activation_gradient(Activation::Relu, &dy)?,
            activation if is_grad_enabled() => {
                let bias = (needs.len() > 2).then(|| saved.operand(2));
                let z = saved.operand(0).linear(saved.operand(1), bias)?;
                z.activation_gradient(activation, &dy)?
            }
            activation => saved.result(1).activation_gradient(activation, &dy)?,
        };
        let d = as_rows(&d)?;
        let dx = needs[0].then(|| d.matmul(saved.operand(1))?.reshape(saved.shape(0)));
        let wants = [needs[1], needs.get(2) == Some(&true)];
        let mut gradients = vec![dx.transpose()?];
        gradients.extend(weight_gradients(&d, || as_rows(saved.operand(0)), wants)?);
        gradients.truncate(needs.len());
        Ok(gradients)
    }
}

/// The wanted ones of `dw = dᵀ x` and `db`, the sum of d over rows; on a GPU in one matmul where cuBLASLt supports it.
fn weight_gradients(
    d: &Tensor,
    x: impl FnOnce() -> Result<Tensor>,
    wants: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    let x = if wants[0] { Some(x()?) } else { None };
    if let (Some(x), [true, true]) = (&x, wants)
        && d.device() != Device::Cpu
        && !is_tracked(&[d, x])
        && let Some([dw, db]) = gradients_in_one_matmul(d, x)?
    {
        return Ok([Some(dw), Some(db)]);
    }
    let dw = x.map(|x| d.matmul_transposed(&x, true, false)).transpose()?;
    let db = wants[1].then(|| d.sum(&[0], false)).transpose()?;
    Ok([dw, db])
}

fn gradients_in_one_matmul(d: &Tensor, x: &Tensor) -> Result<Option<[Tensor; 2]>> {
    let (m, n, k) = (d.dims()[0], d.dims()[1], x.dims()[1]);
    let shapes = [Shape::new(&[n, k])?, Shape::new(&[n])?];
    launch("linear", &[("grad", d), ("x", x)], |gpu, operands| {
        let [dw, db] = shapes.map(|shape| Tensor::build_on(gpu, shape, x.dtype(), |_| Ok(())));
        let (dw, db) = (dw?, db?);
        let gemm = Gemm { transpose_a: true, ..Gemm::new(x.dtype(), n, k, m) };
        let computed = {
            let (dw, db) = (dw.device_view(), db.device_view());
            let slices = [operands[0], operands[1], dw.slice(), db.slice()];
            cuda::gemm_with_epilogue(gpu, &gemm, Epilogue::BgradA, slices, None)?
        };
        Ok(computed.then_some([dw, db]))
    })
}

/// `[rows, features]`
fn as_rows(t: &Tensor) -> Result<Tensor> {
    let columns = t.dims()[t.rank() - 1];
    t.reshape([t.dims()[..t.rank() - 1].iter().product(), columns])
}

/// `x wᵀ + b`
fn affine(gpu: &Arc<Gpu>, gemm: &Gemm, x: &[DeviceSlice], y: DeviceSlice) -> CudaResult<()> {
    let Some(bias) = x.get(2) else { return cuda::gemm(gpu, gemm, x[0], x[1], y) };
    if cuda::gemm_with_epilogue(gpu, gemm, Epilogue::Bias, [x[0], x[1], y, *bias], None)? {
        return Ok(());
    }
    cuda::gemm(gpu, gemm, x[0], x[1], y)?;
    elementwise::binary::add_to_rows(gpu, y, *bias)
}
