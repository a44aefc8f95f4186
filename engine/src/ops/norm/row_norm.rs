//! Layer normalisation (Ba et al., 2016) and RMS normalisation (Zhang and Sennrich, 2019) over the last axis.
use super::cpu::RowNorm;
use super::{NormStatistics, Normalised, cuda, to_compute_dtype};
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{self, CpuCall, Infos, Op, Spec, TensorInfo, apply, check_parameters, for_real};
use crate::ops::wide;
use crate::{DType, Result, Tensor};
use std::sync::Arc;

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
        name: &'static str,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        centre: bool,
        eps: f64,
    ) -> Result<Tensor> {
        let n = self.dims().last().copied().unwrap_or_default();
        let norm = RowNorm { n, centre, eps };
        let operands: Vec<&Tensor> = [self].into_iter().chain(weight).chain(bias).collect();
        apply(RowNormOp { name, norm, has: [weight.is_some(), bias.is_some()] }, &operands)
    }
}

/// The normalized rows, and mean and inverse standard deviation of each. Operands: x, and weight and bias where it `has` them.
#[derive(Clone, Copy)]
struct RowNormOp {
    name: &'static str,
    norm: RowNorm,
    has: [bool; 2],
}

impl Op for RowNormOp {
    fn spec(&self) -> Spec {
        let operands: &[&str] = if self.has[0] { &["x", "weight", "bias"] } else { &["x", "bias"] };
        Spec::new(self.name, operands).mixed_dtypes()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        check_parameters(x[0], &x[1..])?;
        let n = self.norm.n;
        if n == 0 || x[1..].iter().any(|t| t.dims() != [n]) {
            return Err("x must be [..., c], weight and bias [c]".into());
        }
        Ok(vec![TensorInfo::of(x[0]), TensorInfo::new([x[0].numel() / n, 2], wide(x[0].dtype()))?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_real!(call, T => {
            let weight = self.has[0].then(|| call.x::<T>(1)).transpose()?;
            let bias = self.has[1].then(|| call.x::<T>(1 + usize::from(self.has[0]))).transpose()?;
            let (x, mut y, mut stats) = (call.x::<T>(0)?, call.y::<T>(0)?, call.y::<T>(1)?);
            self.norm.forward(&x, weight.as_deref(), bias.as_deref(), &mut y, &mut stats);
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        let mut parameters = x[1..].iter().copied();
        let parameters = self.has.map(|has| if has { parameters.next() } else { None });
        cuda::row_norm::forward(gpu, &self.norm, x[0], parameters, y[0], y[1])
    }
}

impl Derivative for RowNormOp {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(if self.has[0] { &[0, 1] } else { &[0] }).and_results(&[1])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        let (x, weight) = (saved.operand(0), self.has[0].then(|| saved.operand(1)));
        let mut parameters = (1..needs.len()).map(|i| needs[i].then(|| saved.dtype(i)));
        let parameters = self.has.map(|has| if has { parameters.next().flatten() } else { None });
        let grad = RowNormGrad { name: self.name, norm: self.norm, input: needs[0], parameters };
        let operands: Vec<&Tensor> = [x, &dy, saved.result(1)].into_iter().chain(weight).collect();
        op::gradients(&grad, &operands, needs, || composed(&self.norm, x, weight, saved, &dy, needs))
    }
}

/// Gradients of [`RowNormOp`]: of x if `input`, and of weight and bias in the given dtypes. Operands: x, grad, statistics, and the weight if
/// there is one.
struct RowNormGrad {
    name: &'static str,
    norm: RowNorm,
    input: bool,
    parameters: [Option<DType>; 2],
}

impl Op for RowNormGrad {
    fn spec(&self) -> Spec {
        Spec::new(self.name, &["x", "grad", "statistics", "weight"]).mixed_dtypes()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let mut results: Vec<TensorInfo> = self.input.then(|| TensorInfo::of(x[0])).into_iter().collect();
        for dtype in self.parameters.iter().flatten() {
            results.push(TensorInfo::new([self.norm.n], *dtype)?);
        }
        Ok(results)
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let mut next = usize::from(self.input);
        for_real!(call, T => {
            let (x, dy, stats) = (call.x::<T>(0)?, call.x::<T>(1)?, call.x::<T>(2)?);
            if self.input {
                let weight = (call.operands() > 3).then(|| call.x::<T>(3)).transpose()?;
                self.norm.backward(&x, &dy, weight.as_deref(), &stats, &mut call.y::<T>(0)?);
            }
            if self.parameters != [None; 2] {
                let sums = self.norm.parameter_gradients(&x, &dy, &stats);
                for (sum, _) in sums.iter().zip(self.parameters).filter(|(_, dtype)| dtype.is_some()) {
                    call.y::<T>(next)?.copy_from_slice(sum);
                    next += 1;
                }
            }
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        let mut results = y.iter().copied();
        if self.input {
            let dx = results.next().expect("the input's gradient");
            cuda::row_norm::backward(gpu, &self.norm, x[0], x[1], x.get(3).copied(), x[2], dx)?;
        }
        let parameters = self.parameters.map(|dtype| dtype.and_then(|_| results.next()));
        cuda::row_norm::parameter_gradients(gpu, &self.norm, x[0], x[1], x[2], parameters)
    }
}

/// The gradients as operations.
fn composed(
    norm: &RowNorm,
    x: &Tensor,
    weight: Option<&Tensor>,
    saved: &Saved,
    dy: &Tensor,
    needs: &[bool],
) -> Result<Gradients> {
    let by = if norm.centre { NormStatistics::MeanVariance } else { NormStatistics::MeanSquare };
    let normalised = Normalised::by_input_statistics(x, &[x.rank() - 1], by, norm.eps)?;
    let d = to_compute_dtype(dy)?;
    let of_x = || {
        let d = weight.map_or_else(|| Ok(d.clone()), |w| d.mul(&to_compute_dtype(w)?))?;
        normalised.input_gradient(&d)?.to_dtype(x.dtype())
    };
    let of_weight = || d.mul(&normalised.value)?.sum_to([norm.n])?.to_dtype(saved.dtype(1));
    let bias = 1 + usize::from(weight.is_some());
    let of_bias = || d.sum_to([norm.n])?.to_dtype(saved.dtype(bias));
    let mut grads = vec![needs[0].then(of_x).transpose()?];
    if weight.is_some() {
        grads.push(needs[1].then(of_weight).transpose()?);
    }
    if bias < needs.len() {
        grads.push(needs[bias].then(of_bias).transpose()?);
    }
    Ok(grads)
}
