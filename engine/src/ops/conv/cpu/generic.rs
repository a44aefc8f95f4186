//! Convolution by im2col and GEMM, a band of output rows at a time. Supports every shape, in f32 and f64.
use super::SharedPtr;
use crate::conv_shape::ConvShape;
use crate::cpu::gemm::{StridedMatrix, gemm_serial};
use crate::cpu::scratch;
use crate::dtype::Real;
use rayon::prelude::*;

/// Output pixels per band: its im2col matrix stays in the L2 cache.
const PIXELS: usize = 192;

pub(super) fn forward<T: Real>(s: &ConvShape, x: &[T], weight: &[T], bias: Option<&[T]>, y: &mut [T]) {
    let (bands, [_, out_w]) = (Bands::of(s), out_size(s));
    let k = window(s);
    let image = s.h * s.w * s.c_in;
    let image_out = s.out_h() * out_w * s.c_out;
    if y.is_empty() {
        return;
    }
    let tasks = y.par_chunks_mut(image_out).enumerate().flat_map(|(n, yn)| {
        yn.par_chunks_mut(bands.rows * out_w * s.c_out).enumerate().map(move |(b, band)| (n, b, band))
    });
    tasks.for_each(|(n, b, band)| {
        let pixels = band.len() / s.c_out;
        match bias {
            Some(bias) => band.chunks_exact_mut(s.c_out).for_each(|pixel| pixel.copy_from_slice(bias)),
            None => band.fill(T::zero()),
        }
        scratch::with(pixels * k, |columns: &mut [T]| {
            for g in 0..s.groups {
                im2col(s, &x[n * image..][..image], g, b * bands.rows, columns);
                let dst = StridedMatrix {
                    ptr: band[g * s.group_out()..].as_mut_ptr(),
                    row_step: s.c_out,
                    col_step: 1,
                };
                let lhs = StridedMatrix { ptr: columns.as_mut_ptr(), row_step: k, col_step: 1 };
                let rhs = StridedMatrix {
                    ptr: weight[g * s.group_out() * k..].as_ptr().cast_mut(),
                    row_step: 1,
                    col_step: k,
                };
                // SAFETY: `columns` is [pixels, k], the group's weights [group_out, k], `band` [pixels, c_out].
                unsafe { gemm_serial(pixels, s.group_out(), k, lhs, rhs, true, dst) };
            }
        });
    });
}

pub(super) fn data_gradient<T: Real>(s: &ConvShape, dy: &[T], weight: &[T], dx: &mut [T]) {
    let (bands, [out_h, out_w]) = (Bands::of(s), out_size(s));
    let k = window(s);
    if dx.is_empty() {
        return;
    }
    dx.par_chunks_mut(s.h * s.w * s.c_in).enumerate().for_each(|(n, dx)| {
        dx.fill(T::zero());
        for y0 in (0..out_h).step_by(bands.rows) {
            let pixels = bands.rows.min(out_h - y0) * out_w;
            scratch::with(pixels * k, |columns: &mut [T]| {
                for g in 0..s.groups {
                    columns.fill(T::zero());
                    let first = (n * out_h + y0) * out_w * s.c_out + g * s.group_out();
                    let dst = StridedMatrix { ptr: columns.as_mut_ptr(), row_step: k, col_step: 1 };
                    let lhs = StridedMatrix {
                        ptr: dy[first..].as_ptr().cast_mut(),
                        row_step: s.c_out,
                        col_step: 1,
                    };
                    let rhs = StridedMatrix {
                        ptr: weight[g * s.group_out() * k..].as_ptr().cast_mut(),
                        row_step: k,
                        col_step: 1,
                    };
                    // SAFETY: as in `forward`, with `columns` as the result.
                    unsafe { gemm_serial(pixels, k, s.group_out(), lhs, rhs, true, dst) };
                    col2im(s, columns, g, y0, dx);
                }
            });
        }
    });
}

pub(super) fn weight_gradient<T: Real>(s: &ConvShape, x: &[T], dy: &[T], dw: &mut [T]) {
    let (bands, [out_h, out_w]) = (Bands::of(s), out_size(s));
    let k = window(s);
    let image = s.h * s.w * s.c_in;
    // One partial sum per chunk of images, added in order.
    let chunks = s.n.clamp(1, 8);
    let size = dw.len();
    scratch::with(chunks * size, |partial: &mut [T]| {
        let shared = SharedPtr(partial.as_mut_ptr());
        (0..chunks).into_par_iter().with_max_len(1).for_each(|chunk| {
            // SAFETY: each chunk has its own part of the buffer.
            let sum = unsafe { std::slice::from_raw_parts_mut(shared.at(chunk * size), size) };
            sum.fill(T::zero());
            for n in chunk * s.n / chunks..(chunk + 1) * s.n / chunks {
                for y0 in (0..out_h).step_by(bands.rows) {
                    let pixels = bands.rows.min(out_h - y0) * out_w;
                    scratch::with(pixels * k, |columns: &mut [T]| {
                        for g in 0..s.groups {
                            im2col(s, &x[n * image..][..image], g, y0, columns);
                            let first = (n * out_h + y0) * out_w * s.c_out + g * s.group_out();
                            let dst = StridedMatrix {
                                ptr: sum[g * s.group_out() * k..].as_mut_ptr(),
                                row_step: k,
                                col_step: 1,
                            };
                            let lhs = StridedMatrix {
                                ptr: dy[first..].as_ptr().cast_mut(),
                                row_step: 1,
                                col_step: s.c_out,
                            };
                            let rhs = StridedMatrix { ptr: columns.as_mut_ptr(), row_step: k, col_step: 1 };
                            // SAFETY: as in `forward`, with the weight gradient as the result.
                            unsafe { gemm_serial(s.group_out(), k, pixels, lhs, rhs, true, dst) };
                        }
                    });
                }
            }
        });
        dw.fill(T::zero());
        for sum in partial.chunks_exact(size.max(1)) {
            for (a, b) in dw.iter_mut().zip(sum) {
                *a += *b;
            }
        }
    });
}

/// Partition of the output rows of one image.
struct Bands {
    rows: usize,
}

impl Bands {
    fn of(s: &ConvShape) -> Bands {
        Bands { rows: (PIXELS / s.out_w().max(1)).clamp(1, s.out_h().max(1)) }
    }
}

fn out_size(s: &ConvShape) -> [usize; 2] {
    [s.out_h(), s.out_w()]
}

/// Elements of a window in one group: the row length of the im2col matrix.
fn window(s: &ConvShape) -> usize {
    s.kernel[0] * s.kernel[1] * s.group_in()
}

/// Calls `f(column offset, input offset)` for every tap of the band that starts at output row `y0`. The input offset is `None` on
/// padding.
fn taps(s: &ConvShape, g: usize, y0: usize, len: usize, mut f: impl FnMut(usize, Option<usize>)) {
    let out_w = s.out_w();
    let pixels = len / window(s);
    let mut column = 0;
    for pixel in 0..pixels {
        let (oy, ox) = (y0 + pixel / out_w, pixel % out_w);
        for ky in 0..s.kernel[0] {
            let iy = (oy * s.stride[0] + ky * s.dilation[0]).checked_sub(s.padding[0]).filter(|y| *y < s.h);
            for kx in 0..s.kernel[1] {
                let ix =
                    (ox * s.stride[1] + kx * s.dilation[1]).checked_sub(s.padding[1]).filter(|x| *x < s.w);
                let input = iy.zip(ix).map(|(iy, ix)| (iy * s.w + ix) * s.c_in + g * s.group_in());
                f(column, input);
                column += s.group_in();
            }
        }
    }
}

/// Copies the windows of a band of one image to the rows of `columns`.
fn im2col<T: Real>(s: &ConvShape, x: &[T], g: usize, y0: usize, columns: &mut [T]) {
    let c = s.group_in();
    taps(s, g, y0, columns.len(), |column, input| match input {
        Some(i) => columns[column..][..c].copy_from_slice(&x[i..][..c]),
        None => columns[column..][..c].fill(T::zero()),
    });
}

/// Adds each window of a band to its pixels of `dx`.
fn col2im<T: Real>(s: &ConvShape, columns: &[T], g: usize, y0: usize, dx: &mut [T]) {
    let c = s.group_in();
    taps(s, g, y0, columns.len(), |column, input| {
        let Some(i) = input else { return };
        for (a, b) in dx[i..][..c].iter_mut().zip(&columns[column..][..c]) {
            *a += *b;
        }
    });
}
