//! Batch norm with a fused expression as activation: the programs of its passes over images.
use super::graph::Program;
use super::program_kernels::ProgramKernels;
use super::value::{Value, trace};

/// Kernels of the passes over images. `scale`, `shift`, `mean`, `k2` and `k3` are per-channel.
pub(crate) struct BatchNormKernels {
    /// Inputs x, scale, shift and optionally the residual r. Output `y = f(z)` with `z = x * scale + shift + r`.
    pub(crate) forward: ProgramKernels,
    /// Inputs x, scale, shift, mean, optionally r, and dy. Outputs `d = dy * f'(z)` if it is stored, and the sums of d and of
    /// `d * (x - mean)`.
    pub(crate) sums: ProgramKernels,
    /// Inputs x, scale, shift, k2, k3 and dy, or, if d is stored, x, scale, k2, k3 and d. Output `scale * d + k2 * x + k3`.
    pub(crate) input: ProgramKernels,
}

/// Storage of the gradient d of the activation's input between the two backward passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GradStorage {
    /// Recomputed in the second pass.
    Recomputed,
    /// Stored.
    Stored,
    /// Stored, because it is also the gradient of the residual.
    Residual,
}

impl BatchNormKernels {
    /// Kernels of a batch norm with an activation `f`, whose gradient `derivative` is a program of its input and upstream gradient.
    pub(super) fn new(f: &Program, derivative: &Program, between: GradStorage) -> BatchNormKernels {
        let stored = || kernels(|[x, scale, k2, k3, d]| [scale * d + k2 * x + k3]);
        if between == GradStorage::Residual {
            return BatchNormKernels {
                forward: kernels(|[x, scale, shift, r]| [Value::of_program(f, [x * scale + shift + r])]),
                sums: kernels(|[x, scale, shift, mean, r, dy]| {
                    let d = Value::of_program(derivative, [x * scale + shift + r, dy]);
                    [d, d, d * (x - mean)]
                }),
                input: stored(),
            };
        }
        let forward = kernels(|[x, scale, shift]| [Value::of_program(f, [x * scale + shift])]);
        if between == GradStorage::Stored {
            let sums = kernels(|[x, scale, shift, mean, dy]| {
                let d = Value::of_program(derivative, [x * scale + shift, dy]);
                [d, d, d * (x - mean)]
            });
            return BatchNormKernels { forward, sums, input: stored() };
        }
        BatchNormKernels {
            forward,
            sums: kernels(|[x, scale, shift, mean, dy]| {
                let d = Value::of_program(derivative, [x * scale + shift, dy]);
                [d, d * (x - mean)]
            }),
            input: kernels(|[x, scale, shift, k2, k3, dy]| {
                [scale * Value::of_program(derivative, [x * scale + shift, dy]) + k2 * x + k3]
            }),
        }
    }
}

fn kernels<const N: usize, const M: usize>(
    f: impl for<'g> FnOnce([Value<'g>; N]) -> [Value<'g>; M],
) -> ProgramKernels {
    ProgramKernels::new(trace(f))
}
