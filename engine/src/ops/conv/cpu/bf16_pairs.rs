//! bf16 convolution on CPUs that multiply pairs of bf16, with accumulation in f32.
//!
//! The forward pass and the data gradient pair channels, and run as f32 convolutions of half as many channels. The weight gradient
//! reduces over pixels, so it copies a band of both operands into words that pair neighbouring pixels of a row.
use super::weight::{self, BandOperand, WeightGradOperands};
use super::words::{has_bf16, pair_rows, with_channel_pairs, with_row_pairs};
use super::{ConvInput, dense};
use crate::conv_shape::ConvShape;
use crate::cpu::scratch;
use crate::dtype::bf16;
use std::ops::Range;

/// True if the functions of this module support the shape on this CPU.
pub(super) fn supports(s: &ConvShape) -> bool {
    has_bf16() && s.groups == 1
}

/// [`super::forward`] in bf16, with a bias in f32.
pub(super) fn forward(s: &ConvShape, x: &[bf16], weight: &[bf16], bias: Option<&[f32]>, y: &mut [bf16]) {
    assert!(supports(s), "bf16 convolution needs AVX-512 BF16 and groups = 1, got {s:?}");
    let words = ConvShape { c_in: s.c_in.div_ceil(2), ..*s };
    with_channel_pairs(x, s.c_in, |x| {
        with_channel_pairs(weight, s.c_in, |weight| {
            dense::forward(&words, ConvInput::plain(x), weight, bias, y)
        })
    });
}

/// [`super::data_gradient`] in bf16.
pub(super) fn data_gradient(s: &ConvShape, dy: &[bf16], weight: &[bf16], dx: &mut [bf16]) {
    assert!(supports(s), "bf16 convolution needs AVX-512 BF16 and groups = 1, got {s:?}");
    let words = ConvShape { c_out: s.c_out.div_ceil(2), ..*s };
    with_channel_pairs(dy, s.c_out, |dy| {
        let window = s.kernel[0] * s.kernel[1] * s.c_in;
        with_row_pairs(weight, window, |weight| dense::data_gradient(&words, dy, weight, dx))
    });
}

/// [`super::weight_gradient`] of bf16 operands, in f32.
pub(super) fn weight_gradient(s: &ConvShape, x: &[bf16], dy: &[bf16], dw: &mut [f32]) {
    assert!(supports(s), "bf16 convolution needs AVX-512 BF16 and groups = 1, got {s:?}");
    weight::gradient(s, WeightGradOperands::Bf16 { x, dy }, dw);
}

/// Calls `f` with both operands of a band as words. A word of `x` pairs a pixel of a padded row with the pixel one stride further; a
/// word of `dy` pairs pixels `2i` and `2i + 1`.
pub(super) fn with_band(
    s: &ConvShape,
    x: &[bf16],
    dy: &[bf16],
    images: Range<usize>,
    rows: Range<usize>,
    f: impl FnOnce(&BandOperand, &BandOperand),
) {
    let (x, dy): (&[u16], &[u16]) = (bytemuck::cast_slice(x), bytemuck::cast_slice(dy));
    let pairs = s.out_w().div_ceil(2);
    let row = (2 * pairs - 2) * s.stride[1] + (s.kernel[1] - 1) * s.dilation[1] + 1;
    let height = (rows.len() - 1) * s.stride[0] + (s.kernel[0] - 1) * s.dilation[0] + 1;
    let first = (rows.start * s.stride[0]) as isize - s.padding[0] as isize;
    scratch::with(images.len() * height * row * s.c_in, |of_x: &mut [u32]| {
        scratch::with(images.len() * rows.len() * pairs * s.c_out, |of_dy: &mut [u32]| {
            let bands = of_x.chunks_exact_mut(height * row * s.c_in);
            for (n, (of_x, of_dy)) in
                images.clone().zip(bands.zip(of_dy.chunks_exact_mut(rows.len() * pairs * s.c_out)))
            {
                for (r, words) in of_x.chunks_exact_mut(row * s.c_in).enumerate() {
                    let y = first + r as isize;
                    words.fill(0);
                    if (0..s.h as isize).contains(&y) {
                        let line = &x[(n * s.h + y as usize) * s.w * s.c_in..][..s.w * s.c_in];
                        pair_pixels(line, s.padding[1] * s.c_in, s.stride[1] * s.c_in, words);
                    }
                }
                for (y, words) in rows.clone().zip(of_dy.chunks_exact_mut(pairs * s.c_out)) {
                    let line = &dy[(n * s.out_h() + y) * s.out_w() * s.c_out..][..s.out_w() * s.c_out];
                    pair_rows(line, s.c_out, words);
                }
            }
            let x =
                BandOperand { x: of_x.as_ptr().cast(), row, image: height * row, first, left: s.padding[1] };
            let dy = BandOperand {
                x: of_dy.as_ptr().cast(),
                row: pairs,
                image: rows.len() * pairs,
                first: rows.start as isize,
                left: 0,
            };
            f(&x, &dy);
        });
    });
}

/// Pairs element `i` of a line with `left` leading zeros and element `i + step` in `words[i]`, which must be zero on entry.
fn pair_pixels(line: &[u16], left: usize, step: usize, words: &mut [u32]) {
    let (len, end) = (words.len(), left + line.len());
    let low = left.min(len)..end.min(len);
    for (word, low) in words[low].iter_mut().zip(line) {
        *word = u32::from(*low);
    }
    let skipped = step.saturating_sub(left).min(line.len());
    let high = left.saturating_sub(step).min(len)..end.saturating_sub(step).min(len);
    for (word, high) in words[high].iter_mut().zip(&line[skipped..]) {
        *word |= u32::from(*high) << 16;
    }
}
