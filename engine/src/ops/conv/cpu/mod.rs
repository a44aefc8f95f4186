//! 2-D convolution, channels-last: forward, data gradient, weight gradient.
//!
//! f64 uses `generic`, im2col and GEMM, which is also the reference. In f32:
//!
//! - `depthwise` computes groups of 1, 2, 4 and 8 channels, vectorised over all channels;
//! - `winograd` computes 3x3 kernels of stride 1 with many channels;
//! - `direct` computes every other forward pass and data gradient: a `plan` lists the source pixels that each target pixel
//!   gathers, `panel` packs the weights, `band` or `batch_tile` iterates over the pixels, `tile` is the kernel, `dense` puts them together;
//! - `weight` computes every other weight gradient, with the kernel in `outer`.
//!
//! `half` computes f16 and bf16: depthwise convolutions and Winograd tiles in f32, bf16 by `amx` on CPUs with tile registers, and
//! otherwise by `bf16_pairs` with the plans and tiles of f32, on CPUs with bf16 instructions.
//!
//! The input may be the output of a batch norm that was not computed yet: `prologue` applies it where a kernel reads.
//!
//! The partition (bands, chunks, slices) depends on the shape alone, so results do not depend on the number of threads.
#![allow(
    unsafe_op_in_unsafe_fn,
    clippy::undocumented_unsafe_blocks,
    clippy::missing_safety_doc,
    reason = "a kernel is one unsafe function over raw pointers; its doc comment states their requirements"
)]
use crate::conv_shape::ConvShape;
use crate::dtype::{Real, as_f32, as_f32_mut};
use direct::dense;
use weight::WeightGradOperands;

#[cfg(target_arch = "x86_64")]
mod amx;
mod depthwise;
mod direct;
mod generic;
mod groups;
pub mod half;
mod prefetch;
mod prologue;
mod support;
#[cfg(test)]
mod tests;
mod weight;
mod winograd;

pub use half::words::has_bf16;
pub use prologue::{ConvInput, Prologue};
pub use support::{forward_supports, weight_gradient_supports};

/// Forward pass:
/// `y[n,oy,ox,o] = bias[o] + sum over ky,kx,i of x[n, oy*s+ky*d-p, ox*s+kx*d-p, i] * weight[o,ky,kx,i]`, where `i` runs over the
/// input channels of the group of `o` and pixels outside the input are zero.
///
/// Shapes: `x` `[n,h,w,c_in]`, `weight` `[c_out,kh,kw,c_in/groups]`, `bias` `[c_out]`, `y` `[n,out_h,out_w,c_out]`. `y` is
/// overwritten. Dtypes: f32 and f64.
///
/// # Panics
/// If a slice has the wrong length.
pub fn forward<T: Real>(s: &ConvShape, x: &[T], weight: &[T], bias: Option<&[T]>, y: &mut [T]) {
    forward_of(s, ConvInput::plain(x), weight, bias, y);
}

/// [`forward`] of an input that may have a prologue if it is f32 and [`forward_supports`] accepts the shape.
///
/// # Panics
/// If a slice has the wrong length.
pub fn forward_of<T: Real>(
    s: &ConvShape,
    input: ConvInput<T>,
    weight: &[T],
    bias: Option<&[T]>,
    y: &mut [T],
) {
    check(s, input.x.len(), weight.len(), y.len());
    assert!(bias.is_none_or(|b| b.len() == s.c_out), "bias must hold c_out elements");
    if is_trivial(s) {
        return y.iter_mut().enumerate().for_each(|(i, y)| *y = bias.map_or(T::zero(), |b| b[i % s.c_out]));
    }
    match (as_f32(input.x), as_f32(weight), as_f32_mut(y)) {
        (Some(x), Some(weight), Some(y)) => {
            forward_f32(s, ConvInput { x, prologue: input.prologue }, weight, bias.and_then(as_f32), y)
        }
        _ => generic::forward(s, input.x, weight, bias, y),
    }
}

/// Gradient of the input: `dx[n,iy,ix,i] = sum over oy,ox,o of dy[n,oy,ox,o] * weight[o,ky,kx,i]` over the windows that contain the
/// pixel. Shapes as in [`forward`]; `dx` is overwritten.
pub fn data_gradient<T: Real>(s: &ConvShape, dy: &[T], weight: &[T], dx: &mut [T]) {
    check(s, dx.len(), weight.len(), dy.len());
    if is_trivial(s) {
        return dx.fill(T::zero());
    }
    match (as_f32(dy), as_f32(weight), as_f32_mut(dx)) {
        (Some(dy), Some(weight), Some(dx)) if depthwise::supports(s) => {
            depthwise::data_gradient(s, dy, weight, dx)
        }
        (Some(dy), Some(weight), Some(dx)) if winograd::supports(s) => {
            winograd::data_gradient(s, dy, weight, dx)
        }
        (Some(dy), Some(weight), Some(dx)) => dense::data_gradient(s, dy, weight, dx),
        _ => generic::data_gradient(s, dy, weight, dx),
    }
}

/// Gradient of the weight: `dw[o,ky,kx,i] = sum over n,oy,ox of dy[n,oy,ox,o] * x[n, oy*s+ky*d-p, ox*s+kx*d-p, i]`.
/// Shapes as in [`forward`]; `dw` is overwritten.
pub fn weight_gradient<T: Real>(s: &ConvShape, x: &[T], dy: &[T], dw: &mut [T]) {
    weight_gradient_of(s, ConvInput::plain(x), dy, dw);
}

/// [`weight_gradient`] of an input that may have a prologue if it is f32 and [`weight_gradient_supports`] accepts the shape.
pub fn weight_gradient_of<T: Real>(s: &ConvShape, input: ConvInput<T>, dy: &[T], dw: &mut [T]) {
    check(s, input.x.len(), dw.len(), dy.len());
    if is_trivial(s) {
        return dw.fill(T::zero());
    }
    match (as_f32(input.x), as_f32(dy), as_f32_mut(dw)) {
        (Some(x), Some(dy), Some(dw)) => {
            weight_gradient_f32(s, ConvInput { x, prologue: input.prologue }, dy, dw)
        }
        _ => generic::weight_gradient(s, input.x, dy, dw),
    }
}

fn forward_f32(s: &ConvShape, input: ConvInput, weight: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    if depthwise::supports(s) {
        depthwise::forward(s, input, weight, bias, y);
    } else if winograd::supports(s) {
        winograd::forward(s, input, weight, bias, y);
    } else {
        dense::forward(s, input, weight, bias, y);
    }
}

fn weight_gradient_f32(s: &ConvShape, input: ConvInput, dy: &[f32], dw: &mut [f32]) {
    if depthwise::supports(s) {
        depthwise::weight::gradient(s, input, dy, dw);
    } else if winograd::supports(s) {
        winograd::weight_gradient(s, input, dy, dw);
    } else {
        weight::gradient(s, WeightGradOperands::F32 { x: input, dy }, dw);
    }
}

/// True if no product contributes to a result. The kernels would still iterate over extents that no memory bounds.
fn is_trivial(s: &ConvShape) -> bool {
    s.macs() == 0 || s.input_len() == 0
}

fn check(s: &ConvShape, input: usize, weight: usize, output: usize) {
    assert!(s.is_valid(), "the geometry must be valid: {s:?}");
    assert_eq!(input, s.input_len(), "the input must hold n * h * w * c_in elements");
    assert_eq!(weight, s.weight_len(), "the weight must hold c_out * kh * kw * c_in / groups elements");
    assert_eq!(output, s.output_len(), "the output must hold n * out_h * out_w * c_out elements");
}

/// Pointer shared by tasks. Each task writes its own part, which no other task accesses.
struct SharedPtr<T>(*mut T);

impl<T> Clone for SharedPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SharedPtr<T> {}

// SAFETY: tasks access disjoint parts, as the type requires.
unsafe impl<T> Send for SharedPtr<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for SharedPtr<T> {}

impl<T> SharedPtr<T> {
    /// Pointer advanced by `offset` elements. A method, so that closures capture the wrapper and not the bare pointer.
    #[inline(always)]
    fn at(self, offset: usize) -> *mut T {
        self.0.wrapping_add(offset)
    }
}
