//! Inputs and outputs that a generated kernel is specialised for.
use crate::DType;

/// Broadcast of an input to the output's shape `[.., c]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broadcast {
    /// One element per output element.
    Full,
    /// One element per channel, repeated over rows.
    Channel,
    /// A single element.
    Scalar,
}

/// Kind of a kernel's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum KernelOutput {
    /// Every element, in the given dtype.
    Elements(DType),
    /// Per-channel sums over rows.
    Sums,
}

/// Inputs and outputs that a kernel is specialised for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KernelSignature {
    pub(crate) inputs: Vec<(DType, Broadcast)>,
    pub(crate) outputs: Vec<KernelOutput>,
}

impl KernelSignature {
    /// Signature of the gradients of the wanted inputs. The upstream gradient has the first input's dtype; the gradient of a broadcast input is
    /// a sum.
    pub(crate) fn backward(inputs: &[(DType, Broadcast)], wanted: u32) -> KernelSignature {
        let outputs =
            inputs.iter().enumerate().filter(|(i, _)| wanted >> i & 1 == 1).map(|(_, input)| match input {
                (dtype, Broadcast::Full) => KernelOutput::Elements(*dtype),
                _ => KernelOutput::Sums,
            });
        let upstream = (inputs[0].0, Broadcast::Full);
        KernelSignature {
            outputs: outputs.collect(),
            inputs: inputs.iter().copied().chain([upstream]).collect(),
        }
    }

    /// True if the kernel can index elements linearly, without rows and channels.
    pub(crate) fn is_flat(&self) -> bool {
        self.inputs.iter().all(|(_, broadcast)| *broadcast != Broadcast::Channel)
            && self.outputs.iter().all(|output| *output != KernelOutput::Sums)
    }
}
