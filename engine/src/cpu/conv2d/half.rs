//! Convolution in f16 and bf16, where a kernel reads and writes them. Depthwise convolutions and Winograd tiles are computed in f32; other
//! shapes in bf16 use bf16 instructions where the CPU has them.
use super::{ConvInput, bf16_pairs, check, depthwise, depthwise_weight, winograd};
use crate::conv_shape::ConvShape;
use crate::cpu::cast::cast;
use crate::cpu::parallel::for_each_piece;
use crate::cpu::scratch;
use crate::cpu::stored::Stored;
use crate::dtype::{DType, bf16};

/// True if the functions of this module support the shape in this dtype on this CPU.
pub fn supports<T: Stored<Compute = f32>>(s: &ConvShape) -> bool {
    depthwise::supports(s) || winograd::supports(s) || T::DTYPE == DType::BF16 && bf16_pairs::supports(s)
}

/// [`super::forward`] in half precision.
pub fn forward<T: Stored<Compute = f32>>(
    s: &ConvShape,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    y: &mut [T],
) {
    check(s, x.len(), weight.len(), y.len());
    let bias = bias.map(|b| b.iter().map(|b| b.to_f64() as f32).collect::<Vec<_>>());
    assert!(bias.as_ref().is_none_or(|b| b.len() == s.c_out), "bias must hold c_out elements");
    if depthwise::supports(s) {
        return depthwise::forward(s, ConvInput::plain(x), weight, bias.as_deref(), y);
    }
    if winograd::supports(s) {
        return winograd::forward(s, ConvInput::plain(x), weight, bias.as_deref(), y);
    }
    let y = bytemuck::cast_slice_mut(y);
    bf16_pairs::forward(s, as_bf16(x), as_bf16(weight), bias.as_deref(), y);
}

/// [`super::data_gradient`] in half precision.
pub fn data_gradient<T: Stored<Compute = f32>>(s: &ConvShape, dy: &[T], weight: &[T], dx: &mut [T]) {
    check(s, dx.len(), weight.len(), dy.len());
    if depthwise::supports(s) {
        return depthwise::data_gradient(s, dy, weight, dx);
    }
    if winograd::supports(s) {
        return winograd::data_gradient(s, dy, weight, dx);
    }
    bf16_pairs::data_gradient(s, as_bf16(dy), as_bf16(weight), bytemuck::cast_slice_mut(dx));
}

/// [`super::weight_gradient`] in half precision.
pub fn weight_gradient<T: Stored<Compute = f32>>(s: &ConvShape, x: &[T], dy: &[T], dw: &mut [T]) {
    check(s, x.len(), dw.len(), dy.len());
    scratch::with(dw.len(), |sums: &mut [f32]| {
        if depthwise::supports(s) {
            depthwise_weight::gradient(s, ConvInput::plain(x), dy, sums);
        } else if winograd::supports(s) {
            winograd::weight_gradient(s, ConvInput::plain(x), dy, sums);
        } else {
            bf16_pairs::weight_gradient(s, as_bf16(x), as_bf16(dy), sums);
        }
        for_each_piece(dw, |start, dw| cast(&sums[start..][..dw.len()], dw));
    });
}

/// # Panics
/// If the dtype is not bf16.
fn as_bf16<T: Stored>(x: &[T]) -> &[bf16] {
    assert_eq!(T::DTYPE, DType::BF16, "only depthwise and Winograd convolutions are computed in this dtype");
    bytemuck::cast_slice(x)
}
