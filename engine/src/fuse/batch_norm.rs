//! Batch norm with a fused expression as activation: the programs of its passes over images.
use super::graph::{Graph, Program};
use super::{Expression, ProgramKernels, Value};
use std::cell::RefCell;
use std::sync::Arc;

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

impl Expression {
    /// Kernels of a batch norm with this activation.
    pub(crate) fn batch_norm(&self, between: GradStorage) -> Arc<BatchNormKernels> {
        self.0.norms[between as usize].get_or_init(|| Arc::new(self.passes(between))).clone()
    }

    fn passes(&self, between: GradStorage) -> BatchNormKernels {
        let derivative = self.gradient(0);
        let stored = || kernels(|[x, scale, k2, k3, d]| [scale * d + k2 * x + k3]);
        if between == GradStorage::Residual {
            return BatchNormKernels {
                forward: kernels(|[x, scale, shift, r]| [self.call([x * scale + shift + r])]),
                sums: kernels(|[x, scale, shift, mean, r, dy]| {
                    let d = derivative.call([x * scale + shift + r, dy]);
                    [d, d, d * (x - mean)]
                }),
                input: stored(),
            };
        }
        let forward = kernels(|[x, scale, shift]| [self.call([x * scale + shift])]);
        if between == GradStorage::Stored {
            let sums = kernels(|[x, scale, shift, mean, dy]| {
                let d = derivative.call([x * scale + shift, dy]);
                [d, d, d * (x - mean)]
            });
            return BatchNormKernels { forward, sums, input: stored() };
        }
        BatchNormKernels {
            forward,
            sums: kernels(|[x, scale, shift, mean, dy]| {
                let d = derivative.call([x * scale + shift, dy]);
                [d, d * (x - mean)]
            }),
            input: kernels(|[x, scale, shift, k2, k3, dy]| {
                [scale * derivative.call([x * scale + shift, dy]) + k2 * x + k3]
            }),
        }
    }
}

fn kernels<const N: usize, const M: usize>(
    f: impl for<'g> FnOnce([Value<'g>; N]) -> [Value<'g>; M],
) -> ProgramKernels {
    ProgramKernels::new(program(f))
}

/// Traces a function of [`Value`]s to a program.
pub(super) fn program<const N: usize, const M: usize>(
    f: impl for<'g> FnOnce([Value<'g>; N]) -> [Value<'g>; M],
) -> Program {
    let graph = RefCell::new(Graph::default());
    let inputs = std::array::from_fn(|i| {
        let node = graph.borrow_mut().input(i);
        Value { graph: &graph, node }
    });
    let outputs = f(inputs).map(|value| value.node);
    graph.borrow().program(N, &outputs)
}
