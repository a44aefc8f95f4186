//! Convolution in f16 and bf16, where a kernel reads and writes them. Depthwise convolutions and Winograd tiles are computed in f32; bf16
//! uses the CPU's tiles or instructions for bf16 where it has them.
pub(in crate::ops::conv::cpu) mod bf16_pairs;
pub(in crate::ops::conv::cpu) mod words;

use crate::conv_shape::ConvShape;
use crate::cpu::cast::cast;
use crate::cpu::parallel::for_each_piece;
use crate::cpu::scratch;
use crate::cpu::stored::Stored;
use crate::dtype::{DType, bf16};
#[cfg(target_arch = "x86_64")]
use crate::ops::conv::cpu::amx;
use crate::ops::conv::cpu::depthwise::weight as depthwise_weight;
use crate::ops::conv::cpu::{ConvInput, check, depthwise, has_bf16, winograd};

/// Kernels of a shape.
enum HalfKernels {
    Depthwise,
    #[cfg(target_arch = "x86_64")]
    Tiles,
    Winograd,
    Bf16Pairs,
}

impl HalfKernels {
    fn of<T: Stored>(s: &ConvShape) -> Option<HalfKernels> {
        let is_bf16 = T::DTYPE == DType::BF16;
        if depthwise::supports(s) {
            return Some(HalfKernels::Depthwise);
        }
        #[cfg(target_arch = "x86_64")]
        if is_bf16 && amx::supports(s) {
            return Some(HalfKernels::Tiles);
        }
        if winograd::supports(s) {
            return Some(HalfKernels::Winograd);
        }
        (is_bf16 && bf16_pairs::supports(s)).then_some(HalfKernels::Bf16Pairs)
    }

    /// # Panics
    /// If no kernel supports the shape in this dtype.
    fn expect<T: Stored>(s: &ConvShape) -> HalfKernels {
        HalfKernels::of::<T>(s).expect("a shape that the kernels of half precision support")
    }
}

/// True if the functions of this module support the shape in this dtype on this CPU.
pub fn supports<T: Stored<Compute = f32>>(s: &ConvShape) -> bool {
    HalfKernels::of::<T>(s).is_some()
}

/// True if the forward pass and the weight gradient of this shape apply a prologue.
pub fn supports_prologue<T: Stored<Compute = f32>>(s: &ConvShape) -> bool {
    match HalfKernels::of::<T>(s) {
        Some(HalfKernels::Depthwise) => true,
        #[cfg(target_arch = "x86_64")]
        Some(HalfKernels::Tiles) => true,
        // Winograd's transform would not round the normalized elements, as the pass that it replaces does.
        Some(HalfKernels::Winograd | HalfKernels::Bf16Pairs) | None => false,
    }
}

/// Instructions for bf16 that convolutions and linear layers use on this CPU.
pub fn bf16_instructions() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    if amx::is_available() {
        return Some("AMX tiles");
    }
    has_bf16().then_some("AVX-512 dot products")
}

/// [`crate::ops::conv::cpu::forward`] in half precision, of an input with a prologue if [`supports_prologue`] accepts it.
pub fn forward<T: Stored<Compute = f32>>(
    s: &ConvShape,
    x: ConvInput<T>,
    weight: &[T],
    bias: Option<&[T]>,
    y: &mut [T],
) {
    check(s, x.x.len(), weight.len(), y.len());
    let bias = bias.map(|b| b.iter().map(|b| b.to_f64() as f32).collect::<Vec<_>>());
    assert!(bias.as_ref().is_none_or(|b| b.len() == s.c_out), "bias must hold c_out elements");
    let bias = bias.as_deref();
    match HalfKernels::expect::<T>(s) {
        HalfKernels::Depthwise => depthwise::forward(s, x, weight, bias, y),
        HalfKernels::Winograd => winograd::forward(s, x, weight, bias, y),
        #[cfg(target_arch = "x86_64")]
        HalfKernels::Tiles => {
            amx::forward(s, bf16_input(x), as_bf16(weight), bias, bytemuck::cast_slice_mut(y));
        }
        HalfKernels::Bf16Pairs => {
            assert!(x.prologue.is_none(), "the kernels of bf16 pairs read their input in place");
            bf16_pairs::forward(s, as_bf16(x.x), as_bf16(weight), bias, bytemuck::cast_slice_mut(y));
        }
    }
}

/// [`crate::ops::conv::cpu::data_gradient`] in half precision.
pub fn data_gradient<T: Stored<Compute = f32>>(s: &ConvShape, dy: &[T], weight: &[T], dx: &mut [T]) {
    check(s, dx.len(), weight.len(), dy.len());
    match HalfKernels::expect::<T>(s) {
        HalfKernels::Depthwise => depthwise::data_gradient(s, dy, weight, dx),
        HalfKernels::Winograd => winograd::data_gradient(s, dy, weight, dx),
        #[cfg(target_arch = "x86_64")]
        HalfKernels::Tiles => {
            amx::data_gradient(s, as_bf16(dy), as_bf16(weight), bytemuck::cast_slice_mut(dx));
        }
        HalfKernels::Bf16Pairs => {
            bf16_pairs::data_gradient(s, as_bf16(dy), as_bf16(weight), bytemuck::cast_slice_mut(dx));
        }
    }
}

/// [`crate::ops::conv::cpu::weight_gradient`] in half precision, of an input with a prologue if [`supports_prologue`] accepts it.
pub fn weight_gradient<T: Stored<Compute = f32>>(s: &ConvShape, x: ConvInput<T>, dy: &[T], dw: &mut [T]) {
    check(s, x.x.len(), dw.len(), dy.len());
    scratch::with(dw.len(), |sums: &mut [f32]| {
        match HalfKernels::expect::<T>(s) {
            HalfKernels::Depthwise => depthwise_weight::gradient(s, x, dy, sums),
            HalfKernels::Winograd => winograd::weight_gradient(s, x, dy, sums),
            #[cfg(target_arch = "x86_64")]
            HalfKernels::Tiles => amx::weight_gradient(s, bf16_input(x), as_bf16(dy), sums),
            HalfKernels::Bf16Pairs => {
                assert!(x.prologue.is_none(), "the kernels of bf16 pairs read their input in place");
                bf16_pairs::weight_gradient(s, as_bf16(x.x), as_bf16(dy), sums);
            }
        }
        for_each_piece(dw, |start, dw| cast(&sums[start..][..dw.len()], dw));
    });
}

#[cfg(target_arch = "x86_64")]
fn bf16_input<T: Stored>(input: ConvInput<T>) -> ConvInput<bf16> {
    ConvInput { x: as_bf16(input.x), prologue: input.prologue }
}

/// # Panics
/// If the dtype is not bf16.
fn as_bf16<T: Stored>(x: &[T]) -> &[bf16] {
    assert_eq!(T::DTYPE, DType::BF16, "only depthwise and Winograd convolutions are computed in this dtype");
    bytemuck::cast_slice(x)
}
