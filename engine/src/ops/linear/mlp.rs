//! MLP: two linear layers with an activation between them.
use super::{as_rows, cuda, sizes, weight_gradients};
use crate::autograd::{Derivative, Gradients, Saved, Saves, is_grad_enabled, is_tracked, track};
use crate::cuda::cublaslt::{Epilogue, Gemm};
use crate::op::{composed_backward, launch};
use crate::{Activation, DType, Device, Result, Shape, Tensor};

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
        let operands = [self, w1, b1, w2, b2];
        if self.device() != Device::Cpu
            && is_tracked(&operands)
            && let Some(mlp) = Mlp::new(activation)
            && let Some((hidden, aux)) = mlp.hidden_layer(self, w1, b1)?
        {
            let y = hidden.linear(&w2.detach(), Some(&b2.detach()))?;
            return Ok(track("mlp", &operands, vec![y, hidden, aux], mlp).swap_remove(0));
        }
        self.linear_act(w1, Some(b1), activation)?.linear(w2, Some(b2))
    }
}

/// Derivative of an MLP on a GPU with results y, hidden layer, and the operand of the backward epilogue: ReLU's mask or GELU's input.
struct Mlp {
    activation: Activation,
    forward: Epilogue,
    backward: Epilogue,
}

impl Mlp {
    /// `None` for activations without epilogues.
    fn new(activation: Activation) -> Option<Mlp> {
        let (forward, backward) = match activation {
            Activation::Relu => (Epilogue::BiasReluAux, Epilogue::DreluBgrad),
            Activation::GeluTanh => (Epilogue::BiasGeluTanhAux, Epilogue::DgeluTanhBgrad),
            _ => return None,
        };
        Some(Mlp { activation, forward, backward })
    }

    /// The hidden layer and the operand of the backward epilogue, or `None` where cuBLASLt lacks the forward epilogue.
    fn hidden_layer(&self, x: &Tensor, w1: &Tensor, b1: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
        let [m, n, k] = sizes("mlp", &[x, w1, b1])?;
        let gemm = Gemm { transpose_b: true, epilogue: self.forward, ..Gemm::new(x.dtype(), m, n, k) };
        let (shape, aux_dtype) = (x.shape().with(x.rank() - 1, n)?, x.dtype());
        let (aux_shape, aux_dtype) = match self.activation {
            Activation::Relu => (Shape::new(&[gemm.aux_bytes()])?, DType::U8),
            _ => (shape, aux_dtype),
        };
        launch("mlp", &[("x", x), ("w1", w1), ("b1", b1)], |gpu, of| {
            let hidden = Tensor::build_on(gpu, shape, x.dtype(), |_| Ok(()))?;
            let aux = Tensor::build_on(gpu, aux_shape, aux_dtype, |_| Ok(()))?;
            let computed = {
                let (y, aux) = (hidden.device_view(), aux.device_view());
                let slices = [of[0], of[1], y.slice(), of[2]];
                cuda::gemm_with_epilogue(gpu, &gemm, self.forward, slices, Some(aux.slice()))?
            };
            Ok(computed.then_some((hidden, aux)))
        })
    }

    /// The gradients of the activation's input and, if the epilogue computes it, of b1.
    fn hidden_gradients(
        &self,
        dy: &Tensor,
        w2: &Tensor,
        hidden: &Tensor,
        aux: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (m, n, width) = (dy.dims()[0], dy.dims()[1], w2.dims()[1]);
        let (shape, bias_shape) = (Shape::new(&[m, width])?, Shape::new(&[width])?);
        let fused = launch("mlp", &[("grad", dy), ("w2", w2), ("aux", aux)], |gpu, of| {
            let d = Tensor::build_on(gpu, shape, dy.dtype(), |_| Ok(()))?;
            let db1 = Tensor::build_on(gpu, bias_shape, dy.dtype(), |_| Ok(()))?;
            let gemm = Gemm::new(dy.dtype(), m, width, n);
            let computed = {
                let (d, db1) = (d.device_view(), db1.device_view());
                let slices = [of[0], of[1], d.slice(), db1.slice()];
                cuda::gemm_with_epilogue(gpu, &gemm, self.backward, slices, Some(of[2]))?
            };
            Ok(computed.then_some((d, db1)))
        })?;
        if let Some((d, db1)) = fused {
            return Ok((d, Some(db1)));
        }
        let saved = if self.activation == Activation::Relu { hidden } else { aux };
        Ok((as_rows(saved)?.activation_gradient(self.activation, &dy.matmul(w2)?)?, None))
    }
}

impl Derivative for Mlp {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[0, 1, 2, 3, 4]).and_results(&[1, 2])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        if is_grad_enabled() {
            return composed_backward(saved, &dy, needs, |t| {
                t[0].linear_act(&t[1], Some(&t[2]), self.activation)?.linear(&t[3], Some(&t[4]))
            });
        }
        let (dy, hidden) = (as_rows(&dy)?, saved.result(1));
        let [dw2, db2] = weight_gradients(&dy, || as_rows(hidden), [needs[3], needs[4]])?;
        if !needs[..3].contains(&true) {
            return Ok(vec![None, None, None, dw2, db2]);
        }
        let (d, db1) = self.hidden_gradients(&dy, saved.operand(3), hidden, saved.result(2))?;
        let wants = [needs[1], needs[2] && db1.is_none()];
        let [dw1, sums] = weight_gradients(&d, || as_rows(saved.operand(0)), wants)?;
        let dx = needs[0].then(|| d.matmul(saved.operand(1))?.reshape(saved.shape(0)));
        Ok(vec![dx.transpose()?, dw1, db1.or(sums), dw2, db2])
    }
}
