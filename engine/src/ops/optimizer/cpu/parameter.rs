//! Operands of one parameter's update, and their division among tasks.
use super::loops;
use crate::cpu::parallel::DisjointSlice;
use crate::dtype::{DType, bf16, f16};
use crate::fuse::{ChunkLayout, CpuLoop};
use half::slice::HalfFloatSliceExt;
use std::ops::Range;

/// Operands of one parameter's update.
pub(crate) struct OptimizerParameter<'a> {
    pub(crate) weights: &'a mut [f32],
    pub(crate) gradient: &'a [f32],
    pub(crate) moments: Vec<&'a mut [f32]>,
    pub(crate) ema: Option<&'a mut [f32]>,
    pub(crate) low_precision: Option<LowPrecisionCopy<'a>>,
    pub(crate) param_scalar: Option<&'a mut [f32]>,
    /// Factored second moment: means over the last axis and over the first axis.
    pub(crate) factors: Option<[&'a mut [f32]; 2]>,
    pub(crate) weight_decay: f32,
    pub(crate) lr_scale: f32,
    pub(crate) adaptive_clip: bool,
    pub(crate) round_to: Option<DType>,
    pub(crate) layout: ChunkLayout,
}

/// Low-precision copy of a parameter.
pub(crate) enum LowPrecisionCopy<'a> {
    F16(&'a mut [f16]),
    BF16(&'a mut [bf16]),
}

impl OptimizerParameter<'_> {
    /// Element range of a chunk.
    pub(crate) fn range(&self, chunk: usize) -> Range<usize> {
        let start = chunk * self.layout.chunk_length;
        start..(start + self.layout.chunk_length).min(self.gradient.len())
    }
}

/// Arrays of a parameter. Each task accesses its own part.
pub(super) struct ParameterArrays<'a> {
    pub(super) weights: DisjointSlice<f32>,
    pub(super) gradient: &'a [f32],
    pub(super) moments: Vec<DisjointSlice<f32>>,
    ema: Option<DisjointSlice<f32>>,
    f16: Option<DisjointSlice<f16>>,
    bf16: Option<DisjointSlice<bf16>>,
    round: Option<DType>,
    pub(super) layout: ChunkLayout,
    pub(super) factors: Option<[&'a [f32]; 2]>,
}

impl<'a> ParameterArrays<'a> {
    pub(super) fn new(parameter: &'a mut OptimizerParameter) -> ParameterArrays<'a> {
        let (mut f16, mut bf16) = (None, None);
        match &mut parameter.low_precision {
            Some(LowPrecisionCopy::F16(copy)) => f16 = Some(DisjointSlice::new(copy)),
            Some(LowPrecisionCopy::BF16(copy)) => bf16 = Some(DisjointSlice::new(copy)),
            None => {}
        }
        ParameterArrays {
            weights: DisjointSlice::new(parameter.weights),
            gradient: parameter.gradient,
            moments: parameter.moments.iter_mut().map(|m| DisjointSlice::new(m)).collect(),
            ema: parameter.ema.as_mut().map(|ema| DisjointSlice::new(ema)),
            f16,
            bf16,
            round: parameter.round_to,
            layout: parameter.layout,
            factors: parameter.factors.as_ref().map(|[rows, columns]| [&**rows, &**columns]),
        }
    }

    /// Updates a chunk with a dedicated loop.
    pub(super) fn run_loop(
        &self,
        which: CpuLoop,
        scalars: loops::LoopScalars,
        chunk: usize,
        ema_complement: f32,
    ) {
        let at = self.range(chunk);
        // SAFETY: chunks do not overlap.
        unsafe {
            let mut moments: Vec<&mut [f32]> =
                self.moments.iter().map(|moment| moment.slice(at.start, at.len())).collect();
            let weights = self.weights.slice(at.start, at.len());
            loops::run(which, scalars, weights, &self.gradient[at.clone()], &mut moments);
        }
        self.finish_weights(at, ema_complement);
    }

    /// Updates the EMA of a chunk.
    pub(super) fn average(&self, chunk: usize, complement: f32) {
        let (at, Some(ema)) = (self.range(chunk), &self.ema) else { return };
        // SAFETY: chunks do not overlap.
        average(unsafe { ema.slice(at.start, at.len()) }, read(&self.weights, at), complement);
    }

    /// Rounding, low-precision copy and EMA of new weights.
    pub(super) fn finish_weights(&self, at: Range<usize>, ema_complement: f32) {
        // SAFETY: chunks do not overlap, and no other reference to these parts exists.
        unsafe {
            let copy = match (&self.f16, &self.bf16) {
                (Some(copy), _) => Some(LowPrecisionCopy::F16(copy.slice(at.start, at.len()))),
                (_, Some(copy)) => Some(LowPrecisionCopy::BF16(copy.slice(at.start, at.len()))),
                _ => None,
            };
            let ema = self.ema.as_ref().map(|ema| (ema.slice(at.start, at.len()), ema_complement));
            finish_weights(self.weights.slice(at.start, at.len()), self.round, copy, ema);
        }
    }

    /// Element range of a chunk.
    pub(super) fn range(&self, chunk: usize) -> Range<usize> {
        let start = chunk * self.layout.chunk_length;
        start..(start + self.layout.chunk_length).min(self.gradient.len())
    }
}

/// Rounds new weights, refreshes their low-precision copy, and updates their EMA.
fn finish_weights(
    weights: &mut [f32],
    round: Option<DType>,
    copy: Option<LowPrecisionCopy>,
    ema: Option<(&mut [f32], f32)>,
) {
    match round {
        Some(DType::F16) => weights.iter_mut().for_each(|p| *p = f16::from_f32(*p).to_f32()),
        Some(DType::BF16) => weights.iter_mut().for_each(|p| *p = bf16::from_f32(*p).to_f32()),
        _ => {}
    }
    match copy {
        Some(LowPrecisionCopy::F16(copy)) => copy.convert_from_f32_slice(weights),
        Some(LowPrecisionCopy::BF16(copy)) => copy.convert_from_f32_slice(weights),
        None => {}
    }
    if let Some((ema, complement)) = ema {
        average(ema, weights, complement);
    }
}

/// `ema = decay * ema + (1 - decay) * weights`, with the complement of the decay.
fn average(ema: &mut [f32], weights: &[f32], complement: f32) {
    let decay = 1.0 - complement;
    ema.iter_mut().zip(weights).for_each(|(ema, w)| *ema = decay * *ema + complement * *w);
}

/// Reads part of an array.
pub(super) fn read(array: &DisjointSlice<f32>, at: Range<usize>) -> &[f32] {
    // SAFETY: chunks do not overlap, and a task writes to arrays only after computing a block.
    unsafe { array.slice(at.start, at.len()) }
}
