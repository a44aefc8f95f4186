//! MLP: two linear layers with an activation between them.
use super::check;
use super::gpu::{LinearLayer, activation_gradient, input_gradient, weight_gradients};
use crate::cuda::cublaslt::{Epilogue, Gemm};
use crate::cuda::matmul;
use crate::ops::gpu::OnGpu;
use crate::{Activation, DType, Result, Tensor, autograd};

impl Tensor {
    /// `activation(x · w1ᵀ + b1) · w2ᵀ + b2`: x `[…, in]`, w1 `[hidden, in]`, w2 `[out, hidden]`; dtypes as for [`Tensor::linear`]. The
    /// result is that of two calls of [`Tensor::linear_act`]. On a GPU, for ReLU and GELU's tanh approximation, the backward matmul with
    /// w2 also multiplies by the activation's derivative and computes the gradient of b1, in its epilogue.
    pub fn mlp(
        &self,
        (w1, b1): (&Tensor, &Tensor),
        activation: Activation,
        (w2, b2): (&Tensor, &Tensor),
    ) -> Result<Tensor> {
        let inputs = [self, w1, b1, w2, b2];
        let epilogues = match activation {
            Activation::Relu => Some((Epilogue::BiasReluAux, Epilogue::DreluBgrad)),
            Activation::GeluTanh => Some((Epilogue::BiasGeluTanhAux, Epilogue::DgeluTanhBgrad)),
            _ => None,
        };
        if let (Some(epilogues), true) = (epilogues, autograd::is_tracked(&inputs)) {
            let (operands, sizes) = check("mlp", self, w1, Some(b1))?;
            if let Some(on) = OnGpu::of("mlp", &operands)? {
                let layer = LinearLayer { x: self, weight: w1, bias: Some(b1), sizes };
                if let Some(y) = fused(&on, &layer, activation, epilogues, (w2, b2))? {
                    return Ok(y);
                }
            }
        }
        self.linear_act(w1, Some(b1), activation)?.linear(w2, Some(b2))
    }
}

/// The fused MLP, or `None` where cuBLASLt lacks the forward epilogue for the hidden layer.
fn fused(
    on: &OnGpu,
    layer: &LinearLayer,
    activation: Activation,
    (forward_epilogue, backward_epilogue): (Epilogue, Epilogue),
    (w2, b2): (&Tensor, &Tensor),
) -> Result<Option<Tensor>> {
    let [m, hidden, _] = layer.sizes;
    let (x, w1) = (layer.x, layer.weight);
    let dtype = x.dtype();
    let h = on.empty(x.shape().with(x.rank() - 1, hidden)?, dtype)?;
    let gemm = Gemm { epilogue: forward_epilogue, ..Gemm::new(dtype, m, hidden, 0) };
    let aux = match forward_epilogue {
        Epilogue::BiasReluAux => on.empty([gemm.aux_bytes()], DType::U8)?,
        _ => on.empty([m, hidden], dtype)?,
    };
    if !layer.gemm_with_epilogue(on, forward_epilogue, &h, Some(&aux))? {
        return Ok(None);
    }
    let (_, sizes) = check("mlp", &h, w2, Some(b2))?;
    let (y, _) =
        LinearLayer { x: &h, weight: w2, bias: Some(b2), sizes }.forward(on, Activation::Identity)?;
    let [_, n, _] = sizes;
    let inputs = [x, w1, layer.bias.expect("the mlp's first bias"), w2, b2];
    let all = inputs.map(Tensor::clone);
    let kernels = || {
        let (x, w1, w2) = (x.detach(), w1.detach(), w2.detach());
        move |grad: Tensor, needs: &[bool]| {
            let operands = [("x", &x), ("w1", &w1), ("w2", &w2), ("grad", &grad)];
            let on = OnGpu::for_backward("mlp", &operands)?;
            let dy = grad.reshape([m, n])?;
            let (dw2, db2) = weight_gradients(&on, &dy, &h, [needs[3], needs[4]], dtype)?;
            if !needs[..3].contains(&true) {
                return Ok(vec![None, None, None, dw2, db2]);
            }
            let (d, db1) = (on.empty([m, hidden], dtype)?, on.empty([hidden], dtype)?);
            let gemm = Gemm::new(dtype, m, hidden, n);
            let summed = {
                let views = [&dy, &w2, &d, &db1].map(Tensor::device_view);
                let slices = views.each_ref().map(|t| t.slice());
                on.with_op_context(matmul::gemm_with_epilogue(
                    &on.gpu,
                    &gemm,
                    backward_epilogue,
                    slices,
                    Some(aux.device_view().slice()),
                ))?
            };
            let (d, db1) = match summed {
                true => (d, Some(db1)),
                false => {
                    let dh = input_gradient(&on, &dy, &w2, &h)?;
                    let saved = if activation == Activation::Relu { &h } else { &aux };
                    (activation_gradient(&on, activation, saved, &dh)?.reshape([m, hidden])?, None)
                }
            };
            let (dw1, sums) = weight_gradients(&on, &d, &x, [needs[1], needs[2] && !summed], dtype)?;
            let dx = needs[0].then(|| input_gradient(&on, &d, &w1, &x)).transpose()?;
            Ok(vec![dx, dw1, db1.or(sums), dw2, db2])
        }
    };
    let composition = || {
        move |grad: Tensor, needs: &[bool]| {
            autograd::recomputed_gradients(&all.each_ref(), &grad, needs, |t| {
                t[0].linear_act(&t[1], Some(&t[2]), activation)?.linear(&t[3], Some(&t[4]))
            })
        }
    };
    Ok(Some(y.with_fused_backward("mlp", &inputs, kernels, composition)))
}
