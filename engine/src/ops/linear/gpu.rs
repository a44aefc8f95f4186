//! Linear layers on a GPU: bias, activation and their gradients in the epilogues of the matmuls where cuBLASLt supports it.
use super::ComposedBackward;
use crate::cuda::cublaslt::{Epilogue, Gemm};
use crate::cuda::{self, matmul};
use crate::ops::gpu::OnGpu;
use crate::{Activation, DType, Result, Tensor, autograd};

/// Operands of a linear layer on a GPU: x has `m` rows of `k` features, the weight is `[n, k]`, `sizes` is `[m, n, k]`.
pub(super) struct LinearLayer<'a> {
    pub(super) x: &'a Tensor,
    pub(super) weight: &'a Tensor,
    pub(super) bias: Option<&'a Tensor>,
    pub(super) sizes: [usize; 3],
}

impl LinearLayer<'_> {
    fn inputs(&self) -> Vec<&Tensor> {
        [self.x, self.weight].into_iter().chain(self.bias).collect()
    }

    fn gemm(&self) -> Gemm {
        let [m, n, k] = self.sizes;
        Gemm { transpose_b: true, ..Gemm::new(self.x.dtype(), m, n, k) }
    }

    fn output(&self, on: &OnGpu) -> Result<Tensor> {
        on.empty(self.x.shape().with(self.x.rank() - 1, self.sizes[1])?, self.x.dtype())
    }

    /// Computes the matmul into `y` with an epilogue that uses the bias; false without a bias or where the epilogue is not supported.
    pub(super) fn gemm_with_epilogue(
        &self,
        on: &OnGpu,
        epilogue: Epilogue,
        y: &Tensor,
        aux: Option<&Tensor>,
    ) -> Result<bool> {
        let Some(bias) = self.bias else { return Ok(false) };
        let views = [self.x, self.weight, y, bias].map(Tensor::device_view);
        let aux = aux.map(Tensor::device_view);
        let (slices, aux) = (views.each_ref().map(|t| t.slice()), aux.as_ref().map(|t| t.slice()));
        on.with_op_context(matmul::gemm_with_epilogue(&on.gpu, &self.gemm(), epilogue, slices, aux))
    }

    /// `x wᵀ + b`
    fn affine(&self, on: &OnGpu) -> Result<Tensor> {
        let y = self.output(on)?;
        if !self.gemm_with_epilogue(on, Epilogue::Bias, &y, None)? {
            let views = [self.x, self.weight, &y].map(Tensor::device_view);
            let [of_x, of_w, of_y] = views.each_ref().map(|t| t.slice());
            on.with_op_context(matmul::gemm(&on.gpu, &self.gemm(), of_x, of_w, of_y))?;
            if let Some(bias) = self.bias {
                on.with_op_context(cuda::binary::add_to_rows(&on.gpu, of_y, bias.device_view().slice()))?;
            }
        }
        Ok(y)
    }

    /// The output, and the tensor that determines the activation's derivative: none, the output, or the activation's input.
    pub(super) fn forward(&self, on: &OnGpu, activation: Activation) -> Result<(Tensor, Option<Tensor>)> {
        match activation {
            Activation::Identity => return Ok((self.affine(on)?, None)),
            Activation::Relu => {
                let y = self.output(on)?;
                if self.gemm_with_epilogue(on, Epilogue::BiasRelu, &y, None)? {
                    return Ok((y.clone(), Some(y)));
                }
            }
            // cuBLASLt's GELU is the tanh approximation.
            Activation::GeluTanh if autograd::is_tracked(&self.inputs()) => {
                let (y, pre_activation) = (self.output(on)?, self.output(on)?);
                if self.gemm_with_epilogue(on, Epilogue::BiasGeluTanhAux, &y, Some(&pre_activation))? {
                    return Ok((y, Some(pre_activation)));
                }
            }
            Activation::GeluTanh => {
                let y = self.output(on)?;
                if self.gemm_with_epilogue(on, Epilogue::BiasGeluTanh, &y, None)? {
                    return Ok((y, None));
                }
            }
            _ => {}
        }
        let pre_activation = self.affine(on)?;
        let y = on.build(*pre_activation.shape(), pre_activation.dtype(), |y| {
            cuda::activation::forward(&on.gpu, activation, pre_activation.device_view().slice(), y)
        })?;
        let saved = if activation == Activation::Relu { y.clone() } else { pre_activation };
        Ok((y, Some(saved)))
    }
}

pub(super) fn forward(on: &OnGpu, layer: &LinearLayer, activation: Activation) -> Result<Tensor> {
    let (y, saved) = layer.forward(on, activation)?;
    let [m, n, _] = layer.sizes;
    let composed = ComposedBackward::of(layer.x, layer.weight, layer.bias, activation, saved.as_ref());
    let kernels = || {
        // Nothing is saved without an activation, or when the layer is not tracked.
        let (x, w, has_bias) = (layer.x.detach(), layer.weight.detach(), layer.bias.is_some());
        let saved = saved.map(|t| t.detach());
        move |grad: Tensor, needs: &[bool]| {
            let operands = [("x", &x), ("weight", &w), ("grad", &grad)];
            let on = OnGpu::for_backward("linear", &operands)?;
            let d = match &saved {
                Some(saved) => activation_gradient(&on, activation, saved, &grad)?,
                None => grad.clone(),
            };
            let d = d.reshape([m, n])?;
            let wants_bias = has_bias && needs[2];
            let (dw, db) = weight_gradients(&on, &d, &x, [needs[1], wants_bias], w.dtype())?;
            let dx = needs[0].then(|| input_gradient(&on, &d, &w, &x)).transpose()?;
            let mut grads = vec![dx, dw];
            if has_bias {
                grads.push(db);
            }
            Ok(grads)
        }
    };
    Ok(y.with_fused_backward("linear", &layer.inputs(), kernels, || {
        move |grad: Tensor, needs: &[bool]| composed.backward(&grad, needs)
    }))
}

/// `dy f'`; `saved` is the activation's input, or for ReLU its output.
pub(super) fn activation_gradient(
    on: &OnGpu,
    activation: Activation,
    saved: &Tensor,
    dy: &Tensor,
) -> Result<Tensor> {
    on.build(*saved.shape(), saved.dtype(), |d| {
        cuda::activation::backward(
            &on.gpu,
            activation,
            saved.device_view().slice(),
            dy.device_view().slice(),
            d,
        )
    })
}

/// `dx = d w` for d `[m, n]`, in the shape of x.
pub(super) fn input_gradient(on: &OnGpu, d: &Tensor, w: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (&[m, n], &[_, k]) = (d.dims(), w.dims()) else { unreachable!("matrices") };
    on.build(*x.shape(), x.dtype(), |dx| {
        let (d, w) = (d.device_view(), w.device_view());
        matmul::gemm(&on.gpu, &Gemm::new(x.dtype(), m, k, n), d.slice(), w.slice(), dx)
    })
}

/// The wanted ones of `dw = dᵀ x` and `db`, the sum of d over rows; in one matmul where cuBLASLt supports it.
pub(super) fn weight_gradients(
    on: &OnGpu,
    d: &Tensor,
    x: &Tensor,
    [wants_weight, wants_bias]: [bool; 2],
    dtype: DType,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let &[m, n] = d.dims() else { unreachable!("a matrix") };
    let k = x.dims().last().copied().unwrap_or_default();
    let db = wants_bias.then(|| on.empty([n], dtype)).transpose()?;
    let mut summed = false;
    let dw = wants_weight.then(|| {
        let gemm = Gemm { transpose_a: true, ..Gemm::new(x.dtype(), n, k, m) };
        on.build([n, k], dtype, |dw| {
            let (d, x) = (d.device_view(), x.device_view());
            if let Some(db) = &db {
                let db = db.device_view();
                let slices = [d.slice(), x.slice(), dw, db.slice()];
                summed = matmul::gemm_with_epilogue(&on.gpu, &gemm, Epilogue::BgradA, slices, None)?;
            }
            if summed { Ok(()) } else { matmul::gemm(&on.gpu, &gemm, d.slice(), x.slice(), dw) }
        })
    });
    let dw = dw.transpose()?;
    let db = if summed || !wants_bias { db } else { Some(d.sum(&[0], false)?) };
    Ok((dw, db))
}
