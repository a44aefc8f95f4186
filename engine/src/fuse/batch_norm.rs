//! What batch norm with an activation that is an expression computes: programs of its passes over images.
use super::graph::{Graph, Program};
use super::{Expression, ProgramKernels, Value};
use std::cell::RefCell;
use std::sync::Arc;

/// The passes over images; `scale`, `shift`, `mean`, `k2` and `k3` are by channel.
pub(crate) struct BatchNormKernels {
    /// Of x, scale, shift and perhaps the residual r: `y = f(z)` with `z = x * scale + shift + r`.
    pub(crate) forward: ProgramKernels,
    /// Of x, scale, shift, mean, perhaps r, and dy: `d = dy * f'(z)` where it is stored; sums of d and of `d * (x - mean)`.
    pub(crate) sums: ProgramKernels,
    /// Of x, scale, shift, k2, k3 and dy, or where d is stored of x, scale, k2, k3 and d: `scale * d + k2 * x + k3`.
    pub(crate) input: ProgramKernels,
}

/// What becomes of the gradient d of the activation's input between the two passes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GradStorage {
    /// It is computed again.
    Recomputed,
    /// It is stored.
    Stored,
    /// It is stored, and is the residual's gradient.
    Residual,
}

impl Expression {
    /// The passes of a batch norm with this activation.
    pub(crate) fn batch_norm(&self, between: GradStorage) -> Arc<BatchNormKernels> {
        self.0.norms[between as usize].get_or_init(|| Arc::new(self.passes(between))).clone()
    }

    fn passes(&self, between: GradStorage) -> BatchNormKernels {
        let slope = self.gradient(0);
        let stored = || kernels(|[x, scale, k2, k3, d]| [scale * d + k2 * x + k3]);
        if between == GradStorage::Residual {
            return BatchNormKernels {
                forward: kernels(|[x, scale, shift, r]| [self.of([x * scale + shift + r])]),
                sums: kernels(|[x, scale, shift, mean, r, dy]| {
                    let d = slope.of([x * scale + shift + r, dy]);
                    [d, d, d * (x - mean)]
                }),
                input: stored(),
            };
        }
        let forward = kernels(|[x, scale, shift]| [self.of([x * scale + shift])]);
        if between == GradStorage::Stored {
            let sums = kernels(|[x, scale, shift, mean, dy]| {
                let d = slope.of([x * scale + shift, dy]);
                [d, d, d * (x - mean)]
            });
            return BatchNormKernels { forward, sums, input: stored() };
        }
        BatchNormKernels {
            forward,
            sums: kernels(|[x, scale, shift, mean, dy]| {
                let d = slope.of([x * scale + shift, dy]);
                [d, d * (x - mean)]
            }),
            input: kernels(|[x, scale, shift, k2, k3, dy]| {
                [scale * slope.of([x * scale + shift, dy]) + k2 * x + k3]
            }),
        }
    }
}

fn kernels<const N: usize, const M: usize>(
    f: impl for<'g> FnOnce([Value<'g>; N]) -> [Value<'g>; M],
) -> ProgramKernels {
    ProgramKernels::of(program(f))
}

/// The program that a function of numbers writes.
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
