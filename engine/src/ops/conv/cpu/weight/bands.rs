//! Operands of a band of pixels.
use crate::conv_shape::ConvShape;
use crate::cpu::scratch;
use crate::dtype::bf16;
use crate::ops::conv::cpu::half::words::pair_rows;
use std::ops::Range;

/// Memory layout of one operand of a band: pointer, row and image stride in pixels (or pairs), index of its first row, and columns of
/// padding before the first pixel.
pub(in crate::ops::conv::cpu) struct BandOperand {
    pub(in crate::ops::conv::cpu) x: *const f32,
    pub(in crate::ops::conv::cpu) row: usize,
    pub(in crate::ops::conv::cpu) image: usize,
    pub(in crate::ops::conv::cpu) first: isize,
    pub(in crate::ops::conv::cpu) left: usize,
}

/// Calls `f` with both operands of a band as words. A word of `x` pairs a pixel of a padded row with the pixel one stride further; a
/// word of `dy` pairs pixels `2i` and `2i + 1`.
pub(in crate::ops::conv::cpu) fn with_paired_band(
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
