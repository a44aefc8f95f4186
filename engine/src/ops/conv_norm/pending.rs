//! Batch norm and ReLU that are applied by the next convolution as it reads its input.
use crate::autograd::recomputed_gradients;
use crate::cuda::cudnn::ConvProblem;
use crate::ops::batch_norm::{Nonlinearity, check, gpu as norm_gpu, with_batch_norm_backward};
use crate::ops::conv2d::conv_shape;
use crate::ops::gpu::OnGpu;
use crate::{Activation, BatchNorm, Conv2dOptions, ConvShape, DType, Result, Tensor, cuda};

/// A convolution's output with a deferred batch norm and ReLU. They are applied by the next convolution while it reads, which saves
/// writing and reading the activated tensor, or by [`PendingBatchNorm::resolve`].
///
/// Experimental: no model uses it, as it has not been timed on GPUs yet. In f16 scale and shift are rounded to f16, in bf16 every step
/// of the normalisation is rounded to bf16.
pub struct PendingBatchNorm<'a>(PendingState<'a>);

enum PendingState<'a> {
    Applied(Tensor),
    Open { x: Tensor, saved: Tensor, norm: BatchNorm<'a> },
}

impl Tensor {
    /// `relu(batch_norm(conv2d(x, weight)))`, with batch norm and ReLU deferred to the next convolution where cuDNN computed the
    /// statistics (see [`Tensor::conv2d_batch_norm_act`]), else applied at once.
    pub fn conv2d_batch_norm_pending<'a>(
        &self,
        weight: &Tensor,
        options: &Conv2dOptions,
        norm: &BatchNorm<'a>,
    ) -> Result<PendingBatchNorm<'a>> {
        let batch_statistics = norm.training || norm.running.is_none();
        let (x, sums) = match batch_statistics {
            true => self.conv2d_with_sums(weight, options)?,
            false => (self.conv2d(weight, None, options)?, None),
        };
        let Some(sums) = sums else {
            return Ok(PendingBatchNorm(PendingState::Applied(x.batch_norm_act(
                norm,
                Activation::Relu,
                None,
            )?)));
        };
        check(&x, norm, None)?;
        let mut operands = vec![("x", &x)];
        operands.extend(norm.operands());
        let saved =
            norm_gpu::finalize_statistics(&OnGpu::for_backward("batch_norm", &operands)?, &x, &sums, norm)?;
        Ok(PendingBatchNorm(PendingState::Open { x, saved, norm: *norm }))
    }
}

impl PendingBatchNorm<'_> {
    /// The activated tensor.
    pub fn resolve(self) -> Result<Tensor> {
        let (x, saved, norm) = match self.0 {
            PendingState::Applied(y) => return Ok(y),
            PendingState::Open { x, saved, norm } => (x, saved, norm),
        };
        let operands = [("x", &x)];
        let on = OnGpu::for_backward("batch_norm", &operands)?;
        let y = norm_gpu::apply_relu(&on, &x, &saved)?;
        let make = || {
            let saved = norm_gpu::SavedForBackward::of_relu(&x, &saved, &norm);
            move |grad: Tensor, wanted| saved.backward(grad, wanted)
        };
        let relu = Nonlinearity::BuiltIn(Activation::Relu);
        Ok(with_batch_norm_backward(y, "batch_norm", (&x, &norm, None), relu, make))
    }

    /// [`Tensor::conv2d_batch_norm_act`] of the activated tensor, which is not materialised where cuDNN can normalise as it reads.
    pub fn conv2d_batch_norm_act(
        self,
        weight: &Tensor,
        options: &Conv2dOptions,
        norm: &BatchNorm,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let batch_statistics = norm.training || norm.running.is_none();
        if batch_statistics
            && let PendingState::Open { x, saved, norm: pending } = &self.0
            && let Some((y, sums)) = convolve(x, saved, pending, weight, options)?
        {
            return y.batch_norm_act_of(Some(&sums), norm, activation, residual);
        }
        self.resolve()?.conv2d_batch_norm_act(weight, options, norm, activation, residual)
    }
}

/// The convolution of the activated x and its channel sums, or `None` where cuDNN cannot normalise as it reads.
fn convolve(
    x: &Tensor,
    saved: &Tensor,
    norm: &BatchNorm,
    weight: &Tensor,
    options: &Conv2dOptions,
) -> Result<Option<(Tensor, Tensor)>> {
    let operands = [("x", x), ("weight", weight)];
    crate::ops::same_dtype("conv2d", &operands)?;
    let s = conv_shape(&operands, options)?;
    let on = OnGpu::for_backward("conv2d", &operands)?;
    let affine = affine(saved, x.dtype())?;
    let sums = on.empty([2, s.c_out], DType::F32)?;
    let y = on.empty([s.n, s.out_h(), s.out_w(), s.c_out], x.dtype())?;
    let done = {
        let views = [x, weight, &affine[0], &affine[1], &y, &sums].map(Tensor::device_view);
        let [x, w, scale, shift, y, sums] = views.each_ref().map(|t| t.slice());
        on.with_op_context(cuda::conv2d::forward_fused(
            &on.gpu,
            &s,
            (x, Some([scale, shift])),
            w,
            (y, Some(sums)),
        ))?
    };
    if !done {
        return Ok(None);
    }
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(norm.weight).chain(norm.bias).collect();
    let kernels = || {
        let (x, saved, w) = (x.detach(), saved.clone(), weight.detach());
        let saved_norm = norm_gpu::SavedForBackward::of_relu(&x, &saved, norm);
        let has = [norm.weight.is_some(), norm.bias.is_some()];
        move |grad: Tensor, needs: &[bool]| {
            let dw = needs[1].then(|| weight_gradient(&x, &saved, &affine, &grad, &w, &s)).transpose()?;
            let mut rest = needs[2..].iter().copied();
            let [of_weight, of_bias] = has.map(|has| has && rest.next().unwrap_or(false));
            let mut grads = [None, None, None, None];
            if needs[0] || of_weight || of_bias {
                let operands = [("x", &x), ("weight", &w), ("grad", &grad)];
                let on = OnGpu::for_backward("conv2d", &operands)?;
                let activated = on.build(*x.shape(), x.dtype(), |dx| {
                    let (dy, w) = (grad.device_view(), w.device_view());
                    cuda::conv2d::data_gradient(&on.gpu, &s, dy.slice(), w.slice(), dx)
                })?;
                grads = saved_norm.backward(activated, [needs[0], of_weight, of_bias, false])?;
            }
            let [dx, of_weight, of_bias, _] = grads;
            let of_norm = has.into_iter().zip([of_weight, of_bias]);
            let of_norm = of_norm.filter_map(|(has, grad)| has.then_some(grad));
            Ok([dx, dw].into_iter().chain(of_norm).collect())
        }
    };
    let composition = || {
        let (all, has_weight, eps) =
            (inputs.iter().map(|t| (*t).clone()).collect::<Vec<_>>(), norm.weight.is_some(), norm.eps);
        let (has_bias, options) = (norm.bias.is_some(), *options);
        move |grad: Tensor, needs: &[bool]| {
            recomputed_gradients(&all.iter().collect::<Vec<_>>(), &grad, needs, |t| {
                let (weight, bias) = (has_weight.then(|| &t[2]), has_bias.then(|| &t[t.len() - 1]));
                // Without running statistics batch norm uses the batch's.
                let norm = BatchNorm { weight, bias, eps, ..BatchNorm::default() };
                t[0].batch_norm_act(&norm, Activation::Relu, None)?.conv2d(&t[1], None, &options)
            })
        }
    };
    Ok(Some((y.with_fused_backward("conv2d", &inputs, kernels, composition), sums)))
}

/// Scale and shift in the dtype that cuDNN expects.
fn affine(saved: &Tensor, dtype: DType) -> Result<[Tensor; 2]> {
    let c = saved.dims()[1];
    let row = |at: usize| saved.view(at * c, [c].into()).to_dtype(ConvProblem::affine_dtype(dtype));
    Ok([row(2)?, row(3)?])
}

/// The gradient of the convolution's weight. Recomputes the activated image where cuDNN cannot normalise as it reads.
fn weight_gradient(
    x: &Tensor,
    saved: &Tensor,
    affine: &[Tensor; 2],
    dy: &Tensor,
    w: &Tensor,
    s: &ConvShape,
) -> Result<Tensor> {
    let operands = [("x", x), ("weight", w), ("grad", dy)];
    let on = OnGpu::for_backward("conv2d", &operands)?;
    let dw = on.empty(*w.shape(), w.dtype())?;
    let done = {
        let views = [x, &affine[0], &affine[1], dy, &dw].map(Tensor::device_view);
        let [x, scale, shift, dy, dw] = views.each_ref().map(|t| t.slice());
        on.with_op_context(cuda::conv2d::weight_gradient_fused(&on.gpu, s, (x, [scale, shift]), dy, dw))?
    };
    if !done {
        let image = norm_gpu::apply_relu(&on, x, saved)?;
        let views = [&image, dy, &dw].map(Tensor::device_view);
        let [x, dy, dw] = views.each_ref().map(|t| t.slice());
        on.with_op_context(cuda::conv2d::weight_gradient(&on.gpu, s, x, dy, dw))?;
    }
    Ok(dw)
}
