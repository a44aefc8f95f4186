//! The input of a convolution on the CPU, which may be the output of a batch norm that is not computed yet.
use crate::cpu::stored::Stored;
use crate::ops::batch_norm::NormalizedElements;
use crate::ops::conv::cpu::ConvInput;
use crate::{Result, Tensor};

/// Calls `f` with the elements of x or, if x is the output of a batch norm that is not computed yet and `supports` accepts its formula, with the
/// input of that norm.
pub(super) fn with_input<T: Stored<Compute = f32>>(
    x: &Tensor,
    supports: impl FnOnce(&NormalizedElements<T>) -> bool,
    f: impl FnOnce(ConvInput<T>),
) -> Result<()> {
    let norm = x.normalization::<T>().filter(|norm| supports(norm));
    let elements = norm.as_ref().map_or(x, |norm| &norm.x).read::<T>()?;
    f(norm.as_ref().map_or_else(|| ConvInput::plain(&elements), |norm| norm.conv_input(&elements)));
    Ok(())
}
