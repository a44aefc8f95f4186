//! Output of a batch norm on the CPU that is computed at its first use. A convolution that applies the normalization to its input never
//! computes it; the weight gradient of any convolution computes it again, so it need not be kept for the backward pass.
use super::channels::{Channels, row};
use crate::cpu::memory::CpuBuffer;
use crate::cpu::stored::Stored;
use crate::op::match_float;
use crate::ops::batch_norm::cpu as kernel;
use crate::ops::conv::cpu::{ConvInput, Prologue};
use crate::storage::DeferredElements;
use crate::{Activation, Result, Tensor};
use std::any::Any;
use std::sync::Arc;

/// `activation(x * scale + shift)`, by channel.
pub(in crate::ops) struct NormalizedElements<T: Stored> {
    pub(in crate::ops) x: Tensor,
    pub(in crate::ops) scale: Vec<T::Compute>,
    pub(in crate::ops) shift: Vec<T::Compute>,
    pub(in crate::ops) activation: Activation,
}

/// The deferred output for an input that never changes. It can be computed again if it `keeps_formula`.
pub(super) fn normalized(
    x: &Tensor,
    channels: &Channels,
    activation: Activation,
    keeps_formula: bool,
) -> Result<Tensor> {
    let saved = channels.saved.read::<f64>()?;
    let formula = match_float!(x.dtype(), T => {
        let [scale, shift] = [2, 3].map(|k| row::<<T as Stored>::Compute>(&saved, k));
        Arc::new(NormalizedElements::<T> { x: x.detach(), scale, shift, activation }) as Arc<dyn DeferredElements>
    });
    Ok(Tensor::deferred(formula, *x.shape(), x.dtype(), keeps_formula))
}

impl<T: Stored> DeferredElements for NormalizedElements<T> {
    fn bytes(&self) -> usize {
        self.x.numel() * size_of::<T>()
    }

    fn compute(&self) -> Result<CpuBuffer> {
        let mut buffer = CpuBuffer::new(self.bytes())?;
        let x = self.x.read::<T>()?;
        kernel::apply::<T>(&x, &self.scale, &self.shift, None, self.activation, buffer.as_mut_slice());
        Ok(buffer)
    }
}

impl<T: Stored<Compute = f32>> NormalizedElements<T> {
    /// Input of a convolution that applies the normalization to the elements of `x`.
    pub(in crate::ops) fn conv_input<'a>(&'a self, x: &'a [T]) -> ConvInput<'a, T> {
        let prologue = Prologue { scale: &self.scale, shift: &self.shift, activation: self.activation };
        ConvInput { x, prologue: Some(prologue) }
    }
}

impl Tensor {
    /// The formula of this output of a batch norm, unless its elements were computed.
    pub(in crate::ops) fn normalization<T: Stored>(&self) -> Option<Arc<NormalizedElements<T>>> {
        if !self.storage().is_deferred() {
            return None;
        }
        let formula: Arc<dyn Any + Send + Sync> = self.storage().formula()?;
        formula.downcast::<NormalizedElements<T>>().ok().filter(|formula| formula.x.shape() == self.shape())
    }
}
