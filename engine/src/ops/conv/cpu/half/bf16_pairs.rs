//! bf16 convolution on CPUs that multiply pairs of bf16, with accumulation in f32.
//!
//! The forward pass and the data gradient pair channels, and run as f32 convolutions of half as many channels. The weight gradient
//! reduces over pixels, so it copies a band of both operands into words that pair neighbouring pixels of a row (`weight/bands.rs`).
use crate::conv_shape::ConvShape;
use crate::dtype::bf16;
use crate::ops::conv::cpu::ConvInput;
use crate::ops::conv::cpu::direct::dense;
use crate::ops::conv::cpu::half::words::{has_bf16, with_channel_pairs, with_row_pairs};
use crate::ops::conv::cpu::weight::{self, WeightGradOperands};

/// True if the functions of this module support the shape on this CPU.
pub(in crate::ops::conv::cpu) fn supports(s: &ConvShape) -> bool {
    has_bf16() && s.groups == 1
}

/// [`crate::ops::conv::cpu::forward`] in bf16, with a bias in f32.
pub(in crate::ops::conv::cpu) fn forward(
    s: &ConvShape,
    x: &[bf16],
    weight: &[bf16],
    bias: Option<&[f32]>,
    y: &mut [bf16],
) {
    assert!(supports(s), "bf16 convolution needs AVX-512 BF16 and groups = 1, got {s:?}");
    let words = ConvShape { c_in: s.c_in.div_ceil(2), ..*s };
    with_channel_pairs(x, s.c_in, |x| {
        with_channel_pairs(weight, s.c_in, |weight| {
            dense::forward(&words, ConvInput::plain(x), weight, bias, y)
        })
    });
}

/// [`crate::ops::conv::cpu::data_gradient`] in bf16.
pub(in crate::ops::conv::cpu) fn data_gradient(s: &ConvShape, dy: &[bf16], weight: &[bf16], dx: &mut [bf16]) {
    assert!(supports(s), "bf16 convolution needs AVX-512 BF16 and groups = 1, got {s:?}");
    let words = ConvShape { c_out: s.c_out.div_ceil(2), ..*s };
    with_channel_pairs(dy, s.c_out, |dy| {
        let window = s.kernel[0] * s.kernel[1] * s.c_in;
        with_row_pairs(weight, window, |weight| dense::data_gradient(&words, dy, weight, dx))
    });
}

/// [`crate::ops::conv::cpu::weight_gradient`] of bf16 operands, in f32.
pub(in crate::ops::conv::cpu) fn weight_gradient(s: &ConvShape, x: &[bf16], dy: &[bf16], dw: &mut [f32]) {
    assert!(supports(s), "bf16 convolution needs AVX-512 BF16 and groups = 1, got {s:?}");
    weight::gradient(s, WeightGradOperands::Bf16 { x, dy }, dw);
}
