//! Convolution layer.
use super::{BatchNorm2d, MaxPool2d, in_dtype};
use crate::capture::LayerInfo;
use crate::precision::Operation;
use crate::{Context, Module, Visitor};
use fornax_engine::{Activation, Conv2dOptions as Options, ConvBatchNorm, DType, Device, Result, Tensor};

/// 2-D convolution of images `[n, h, w, c]` with weight `[out, kh, kw, in / groups]` and optional bias `[out]`. Parameters are f32 and
/// zero until initialised by [`crate::init`]; the input is f32, f64, f16 or bf16. The algorithm is the context's.
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    options: Options,
    info: LayerInfo,
}

impl Conv2d {
    /// Convolution with a square kernel, without bias.
    pub fn new(c_in: usize, c_out: usize, kernel: usize, options: Options) -> Result<Conv2d> {
        let shape = [c_out, kernel, kernel, c_in / options.groups.max(1)];
        let weight = Tensor::zeros(shape, DType::F32, &Device::Cpu)?.variable();
        Ok(Conv2d { weight, bias: None, options, info: LayerInfo::new("Conv2d") })
    }

    /// Convolution with stride `stride` and "same" padding, `(kernel - 1) / 2`.
    pub fn same(c_in: usize, c_out: usize, kernel: usize, stride: usize) -> Result<Conv2d> {
        Conv2d::grouped(c_in, c_out, kernel, stride, 1)
    }

    /// [`Conv2d::same`] with channel groups.
    pub fn grouped(c_in: usize, c_out: usize, kernel: usize, stride: usize, groups: usize) -> Result<Conv2d> {
        let padding = [(kernel - 1) / 2; 2];
        Conv2d::new(
            c_in,
            c_out,
            kernel,
            Options { stride: [stride; 2], padding, groups, ..Options::default() },
        )
    }

    /// Convolution over non-overlapping patches: kernel and stride `size`, no padding.
    pub fn patchify(c_in: usize, c_out: usize, size: usize) -> Result<Conv2d> {
        Conv2d::new(c_in, c_out, size, Options { stride: [size; 2], ..Options::default() })
    }

    /// Sets the dilation, and "same" padding for it.
    pub fn dilated(mut self, dilation: usize) -> Conv2d {
        let kernel = self.weight.dims()[1];
        self.options.dilation = [dilation; 2];
        self.options.padding = [dilation * (kernel - 1) / 2; 2];
        self
    }

    /// Adds a bias.
    pub fn with_bias(mut self) -> Result<Conv2d> {
        self.bias = Some(Tensor::zeros([self.weight.dims()[0]], DType::F32, &Device::Cpu)?.variable());
        Ok(self)
    }

    /// `activation(norm(conv(x)) + residual)`, as one fused operation if the convolution has no bias and no intermediate output is captured.
    pub fn forward_norm_act(
        &self,
        x: &Tensor,
        norm: &BatchNorm2d,
        activation: Activation,
        residual: Option<&Tensor>,
        cx: &mut Context,
    ) -> Result<Tensor> {
        let norm_captured = activation != Activation::Identity || residual.is_some();
        if norm_captured && norm.layer_info().is_some_and(|info| cx.captures(info)) {
            let y = norm.forward(&self.forward(x, cx)?, cx)?;
            return residual.map_or(Ok(y.clone()), |residual| y.add(residual))?.activate(activation);
        }
        if self.bias.is_some() || cx.captures(&self.info) || norm.is_split(cx) {
            return norm.forward_act(&self.forward(x, cx)?, activation, residual, cx);
        }
        let ((x, weight), options) = (self.operands(x, cx)?, self.options(cx));
        norm.with_options(activation, x.dtype(), cx, |norm, activation| {
            x.conv2d_batch_norm_act(&weight, &options, norm, activation, residual)
        })
    }

    /// `max_pool2d(activation(norm(conv(x))))` as one operation. The convolution must [fuse](Conv2d::fuses_with) with the norm.
    pub(crate) fn forward_norm_act_pool(
        &self,
        x: &Tensor,
        norm: &BatchNorm2d,
        activation: Activation,
        pool: &MaxPool2d,
        cx: &mut Context,
    ) -> Result<Tensor> {
        let (x, weight) = self.operands(x, cx)?;
        let of_norm = norm.operands(x.dtype(), cx)?;
        let (options, norm_options) = (self.options(cx), of_norm.as_batch_norm());
        let conv = ConvBatchNorm { x: &x, weight: &weight, options, norm: norm_options };
        let y = conv.act_max_pool(activation, pool.options())?;
        norm.store_statistics(&of_norm)?;
        Ok(pool.capture_fused(y, cx))
    }

    /// True if the convolution and `norm` can be fused: they have no bias, no activation and no splits, and neither output is captured.
    pub(crate) fn fuses_with(&self, norm: &BatchNorm2d, cx: &Context) -> bool {
        let captured = |layer: &dyn Module| layer.layer_info().is_some_and(|info| cx.captures(info));
        self.bias.is_none()
            && !norm.has_activation()
            && !norm.is_split(cx)
            && !captured(self)
            && !captured(norm)
    }

    /// `relu(norm(conv(x)) + shortcut_norm(shortcut(from)))` as one operation. Each convolution must [fuse](Conv2d::fuses_with) with its norm.
    pub(crate) fn forward_norm_add_relu(
        &self,
        (x, norm): (&Tensor, &BatchNorm2d),
        (shortcut, from, shortcut_norm): (&Conv2d, &Tensor, &BatchNorm2d),
        cx: &Context,
    ) -> Result<Tensor> {
        let ((from, shortcut_weight), (x, weight)) = (shortcut.operands(from, cx)?, self.operands(x, cx)?);
        let of_shortcut = shortcut_norm.operands(from.dtype(), cx)?;
        let of_norm = norm.operands(x.dtype(), cx)?;
        let conv = |x, weight, options, norm| ConvBatchNorm { x, weight, options, norm };
        let other = conv(&from, &shortcut_weight, shortcut.options(cx), of_shortcut.as_batch_norm());
        let y = conv(&x, &weight, self.options(cx), of_norm.as_batch_norm()).add_relu(&other)?;
        shortcut_norm.store_statistics(&of_shortcut)?;
        norm.store_statistics(&of_norm)?;
        Ok(y)
    }

    /// Options with the context's algorithm.
    fn options(&self, cx: &Context) -> Options {
        Options { algorithm: cx.conv_algorithm(), ..self.options }
    }

    /// Input and weight in the dtype of the context's precision.
    fn operands(&self, x: &Tensor, cx: &Context) -> Result<(Tensor, Tensor)> {
        let x = cx.autocast(Operation::MatMul, x)?;
        let weight = in_dtype(&self.weight, x.dtype())?;
        Ok((x, weight))
    }
}

impl Module for Conv2d {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let (x, weight) = self.operands(x, cx)?;
        let bias = self.bias.as_ref().map(|bias| in_dtype(bias, x.dtype())).transpose()?;
        let y = x.conv2d(&weight, bias.as_ref(), &self.options(cx))?;
        let macs = y.numel() * (weight.numel() / weight.dims()[0]);
        Ok(cx.capture(&self.info, y, macs))
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.conv_weight("weight", &self.weight);
        if let Some(bias) = &self.bias {
            visitor.parameter("bias", bias);
        }
    }

    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_engine::ConvAlgorithm;

    #[test]
    fn algorithm_is_the_one_of_the_context() -> Result<()> {
        let layer = Conv2d::same(3, 4, 3, 2)?;
        let of = |algorithm| layer.options(&Context::eval().with_conv_algorithm(algorithm));
        assert_eq!(layer.options(&Context::eval()), layer.options);
        for algorithm in [ConvAlgorithm::Auto, ConvAlgorithm::Direct] {
            assert_eq!(of(algorithm), Options { algorithm, ..layer.options });
        }
        Ok(())
    }
}
