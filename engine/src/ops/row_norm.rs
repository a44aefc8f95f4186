//! Layer normalisation (Ba et al., 2016) and RMS normalisation (Zhang and Sennrich, 2019) over the last axis.
use super::gpu::{OnGpu, check_parameters};
use super::half::widened;
use super::normalised::{NormStatistics, Normalised, to_compute_dtype};
use crate::cpu::row_norm::RowNorm;
use crate::{DType, Error, Result, Tensor, cuda};

impl Tensor {
    /// Layer normalisation `(x - mean) / sqrt(var + eps) * weight + bias` over the last axis, with the biased variance; x `[…, c]`, weight
    /// and bias `[c]`. Images `[n, h, w, c]` are normalised over channels at each pixel, as by timm's `LayerNorm2d`. f32, f16, bf16; f64 on the
    /// CPU. Parameters have the dtype of x, or are f32 if it is f16 or bf16.
    pub fn layer_norm(&self, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
        self.row_norm("layer_norm", weight, bias, true, eps)
    }

    /// RMS normalisation `x / sqrt(mean(x²) + eps) * weight` over the last axis; weight `[c]`. Dtypes as for [`Tensor::layer_norm`].
    pub fn rms_norm(&self, weight: Option<&Tensor>, eps: f64) -> Result<Tensor> {
        self.row_norm("rms_norm", weight, None, false, eps)
    }

    /// Weight standardisation (Qiao et al., 2019): normalises each output channel of a convolution's weight `[out, …]` to mean 0 and
    /// (biased) variance 1, as timm does. Dtypes as for [`Tensor::layer_norm`].
    pub fn standardize_weight(&self, eps: f64) -> Result<Tensor> {
        self.flatten(1)?.layer_norm(None, None, eps)?.reshape(*self.shape())
    }

    fn row_norm(
        &self,
        op: &'static str,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        centre: bool,
        eps: f64,
    ) -> Result<Tensor> {
        let mut operands = vec![("x", self)];
        operands.extend(weight.map(|t| ("weight", t)));
        operands.extend(bias.map(|t| ("bias", t)));
        check_parameters(op, &operands, &operands[1..])?;
        let n = self.dims().last().copied().unwrap_or_default();
        if n == 0 || operands[1..].iter().any(|(_, t)| t.dims() != [n]) {
            return Err(Error::shape(op, &operands, "x must be [..., c], weight and bias [c]"));
        }
        let norm = RowNorm { n, centre, eps };
        if let Some(on) = OnGpu::of(op, &operands)? {
            return self.row_norm_gpu(&on, op, norm, weight, bias);
        }
        if self.is_half_on_cpu() {
            let (weight, bias) = (widened(weight)?, widened(bias)?);
            return self
                .widened()?
                .row_norm(op, weight.as_ref(), bias.as_ref(), centre, eps)?
                .rounded_as(self);
        }
        dispatch_real!(op, [("x", self)], T => {
            let read = |t: Option<&Tensor>| t.map(|t| t.to_vec::<T>()).transpose();
            let (w, b) = (read(weight)?, read(bias)?);
            let mut stats = vec![T::default(); self.numel() / n * 2];
            let y = {
                let x = self.read::<T>()?;
                Tensor::build(*self.shape(), |y: &mut [T]| norm.forward(&x, w.as_deref(), b.as_deref(), y, &mut stats))?
            };
            let kernels = || {
                let (x, has_weight, has_bias) = (self.detach(), weight.is_some(), bias.is_some());
                move |grad: Tensor, needs: &[bool]| {
                    let (x_data, dy) = (x.read::<T>()?, grad.read::<T>()?);
                    let dx = needs[0].then(|| Tensor::build(*x.shape(), |dx: &mut [T]| norm.backward(&x_data, &dy, w.as_deref(), &stats, dx)));
                    let mut grads = vec![dx.transpose()?];
                    if has_weight || has_bias {
                        let [dw, db] = norm.parameter_gradients(&x_data, &dy, &stats);
                        let present = [(has_weight, dw), (has_bias, db)].into_iter().filter(|(has, _)| *has);
                        for ((_, sums), needed) in present.zip(&needs[1..]) {
                            grads.push(needed.then(|| Tensor::from_vec(sums, [n])).transpose()?);
                        }
                    }
                    Ok(grads)
                }
            };
            let inputs: Vec<&Tensor> = [self].into_iter().chain(weight).chain(bias).collect();
            Ok(y.with_fused_backward(op, &inputs, kernels, || composition(norm, self, weight, bias)))
        })
    }

    fn row_norm_gpu(
        &self,
        on: &OnGpu,
        op: &'static str,
        norm: RowNorm,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let n = norm.n;
        let stats = on.empty([self.numel() / n, 2], DType::F32)?;
        let y = on.build(*self.shape(), self.dtype(), |y| {
            let (x, stats) = (self.device_view(), stats.device_view());
            let views = [weight, bias].map(|t| t.map(Tensor::device_view));
            let parameters = views.each_ref().map(|t| t.as_ref().map(|t| t.slice()));
            cuda::row_norm::forward(&on.gpu, &norm, x.slice(), parameters, y, stats.slice())
        })?;
        let (of_x, of_weight, of_bias) = (self, weight, bias);
        let kernels = || {
            let (x, weight, bias) = (self.detach(), weight.map(Tensor::detach), bias.map(|b| b.dtype()));
            move |grad: Tensor, needs: &[bool]| {
                let operands = [("x", &x), ("grad", &grad)];
                let on = OnGpu::for_backward(op, &operands)?;
                let (of_x, dy, stats) = (x.device_view(), grad.device_view(), stats.device_view());
                let (of_x, dy, stats) = (of_x.slice(), dy.slice(), stats.slice());
                let dx = needs[0].then(|| {
                    on.build(*x.shape(), x.dtype(), |dx| {
                        let weight = weight.as_ref().map(Tensor::device_view);
                        let weight = weight.as_ref().map(|w| w.slice());
                        cuda::row_norm::backward(&on.gpu, &norm, of_x, dy, weight, stats, dx)
                    })
                });
                let mut grads = vec![dx.transpose()?];
                let dtypes = [weight.as_ref().map(|w| w.dtype()), bias];
                let mut needs = needs[1..].iter();
                let mut parameters = [None, None];
                for (parameter, dtype) in parameters.iter_mut().zip(dtypes) {
                    let Some(dtype) = dtype else { continue };
                    if needs.next() == Some(&true) {
                        *parameter = Some(on.empty([n], dtype)?);
                    }
                }
                let views = parameters.each_ref().map(|t| t.as_ref().map(Tensor::device_view));
                let wanted = views.each_ref().map(|t| t.as_ref().map(|t| t.slice()));
                on.with_op_context(cuda::row_norm::parameter_gradients(
                    &on.gpu, &norm, of_x, dy, stats, wanted,
                ))?;
                drop(views);
                let present = parameters.into_iter().zip(dtypes).filter(|(_, dtype)| dtype.is_some());
                grads.extend(present.map(|(grad, _)| grad));
                Ok(grads)
            }
        };
        let inputs: Vec<&Tensor> = [of_x].into_iter().chain(of_weight).chain(of_bias).collect();
        Ok(y.with_fused_backward(op, &inputs, kernels, || composition(norm, of_x, of_weight, of_bias)))
    }
}

/// The backward pass as operations.
fn composition(
    norm: RowNorm,
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
) -> impl Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + use<> {
    let (x, weight, bias) = (x.clone(), weight.cloned(), bias.map(Tensor::dtype));
    move |grad: Tensor, needs: &[bool]| {
        let by = if norm.centre { NormStatistics::MeanVariance } else { NormStatistics::MeanSquare };
        let normalised = Normalised::by_input_statistics(&x, &[x.rank() - 1], by, norm.eps)?;
        let d = to_compute_dtype(&grad)?;
        let of_x = needs[0].then(|| {
            let d = weight.as_ref().map_or_else(|| Ok(d.clone()), |w| d.mul(&to_compute_dtype(w)?))?;
            normalised.input_gradient(&d)?.to_dtype(x.dtype())
        });
        let mut grads = vec![of_x.transpose()?];
        if let Some(w) = &weight {
            let of_weight = || d.mul(&normalised.value)?.sum_to([norm.n])?.to_dtype(w.dtype());
            grads.push(needs[1].then(of_weight).transpose()?);
        }
        if let Some(dtype) = bias {
            let needed = needs[grads.len()];
            grads.push(needed.then(|| d.sum_to([norm.n])?.to_dtype(dtype)).transpose()?);
        }
        Ok(grads)
    }
}
