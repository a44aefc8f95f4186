//! Batch norm and activation of a convolution's input, applied while a kernel copies or transforms the input, which saves the pass that
//! would write the normalised input and read it again. The results are bitwise equal to a pass of its own.
use crate::Activation;
use crate::cpu::cast::cast;
use crate::cpu::scratch;
use crate::cpu::stored::Stored;
use crate::dtype::DType;
use crate::ops::batch_norm::cpu as batch_norm;
use std::ops::Range;

/// `activation(x * scale + shift)` with per-channel scale and shift.
#[derive(Clone, Copy, Debug)]
pub struct Prologue<'a> {
    /// Scale of each channel.
    pub scale: &'a [f32],
    /// Shift of each channel.
    pub shift: &'a [f32],
    /// One of the activations that batch norm is fused with.
    pub activation: Activation,
}

/// Input of a convolution: elements, or the elements before a prologue.
#[derive(Clone, Copy)]
pub struct ConvInput<'a, T = f32> {
    /// Elements.
    pub x: &'a [T],
    /// Prologue, unless the elements are the input itself.
    pub prologue: Option<Prologue<'a>>,
}

impl<'a, T> ConvInput<'a, T> {
    /// Input without a prologue.
    pub fn plain(x: &'a [T]) -> ConvInput<'a, T> {
        ConvInput { x, prologue: None }
    }
}

impl<T: Stored<Compute = f32>> ConvInput<'_, T> {
    /// True if kernels of f32 read a copy, because of a prologue or of half precision.
    pub(super) fn needs_copy(&self) -> bool {
        self.prologue.is_some() || T::DTYPE != DType::F32
    }

    /// Writes the input for the elements of whole pixels, with the rounding of a pass that would store it.
    pub(super) fn copy(&self, elements: Range<usize>, out: &mut [f32]) {
        let x = &self.x[elements];
        match self.prologue {
            Some(prologue) if T::DTYPE == DType::F32 => T::load(x, |x| prologue.apply(x, out)),
            Some(prologue) => scratch::with(x.len(), |rounded: &mut [T]| {
                T::load(x, |x| T::store(rounded, |y| prologue.apply(x, y)));
                cast(rounded, out);
            }),
            None => cast(x, out),
        }
    }
}

impl Prologue<'_> {
    /// Writes the input for whole pixels.
    pub(super) fn apply(&self, x: &[f32], out: &mut [f32]) {
        batch_norm::apply_chunk(x, self.scale, self.shift, self.activation, out);
    }

    /// Lower and upper bound of an activation that clamps its argument.
    pub(super) fn bounds(&self) -> Option<[f32; 2]> {
        clamp_bounds(self.activation)
    }
}

/// Lower and upper bound of an activation that clamps its argument.
pub(super) fn clamp_bounds(activation: Activation) -> Option<[f32; 2]> {
    match activation {
        Activation::Identity => Some([f32::NEG_INFINITY, f32::INFINITY]),
        Activation::Relu => Some([0.0, f32::INFINITY]),
        Activation::Relu6 => Some([0.0, 6.0]),
        _ => None,
    }
}
