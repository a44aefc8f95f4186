//! Pointwise fusion: an expression over tensors becomes one kernel, and its gradients another one.
//!
//! An expression is a Rust function of scalars. [`Expression::apply`] runs it over tensors as one operation, tracked by autograd like any
//! other. On a GPU a kernel is generated, compiled at its first use, and cached; on the CPU the expression runs as vectorised loops over
//! cache-sized blocks. Gradients are derived symbolically and computed by one kernel, which reads inputs and upstream gradient once.
//!
//! ```
//! use fornax_engine::{Result, Tensor, fuse};
//! # fn main() -> Result<()> {
//! let swish = fuse::expression(|[x, beta]| x * fuse::sigmoid(beta * x));
//! let x = Tensor::from_slice(&[-1.0f32, 0.0, 2.0, 3.0], [2, 2])?.variable();
//! let beta = Tensor::from_slice(&[1.0f32, 0.5], [2])?.variable(); // one for each channel
//! let y = swish.apply(&[&x, &beta])?;
//! y.sum_all()?.backward()?;
//! assert_eq!(beta.grad().unwrap().dims(), [2]);
//! # Ok(()) }
//! ```
mod batch_norm;
mod cuda_source;
mod differentiate;
pub(crate) mod graph;
pub(crate) mod update;
mod update_source;
mod value;

pub use update::{CpuLoop, Factoring, Formula, NextState, OptimizerStateSpec, UpdateRule};
pub use value::*;

pub(crate) use batch_norm::{BatchNormKernels, GradStorage};
pub(crate) use cuda_source::GeneratedKernel;
use graph::Program;
use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, OnceLock};
pub(crate) use update_source::UpdateKernel;

use crate::DType;

/// Most inputs of an expression.
pub const MAX_INPUTS: usize = 8;

/// Function of scalars that runs over tensors as one kernel. Cloning copies the handle.
#[derive(Clone)]
pub struct Expression(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) forward: ProgramKernels,
    /// Gradients with respect to the inputs whose bits are set in the key.
    gradients: Mutex<HashMap<u32, Arc<ProgramKernels>>>,
    /// Batch norm with this expression as activation, for each [`GradStorage`].
    norms: [OnceLock<Arc<BatchNormKernels>>; 3],
}

/// Program with the kernels generated for it.
pub(crate) struct ProgramKernels {
    pub(crate) program: Program,
    generated: Mutex<HashMap<KernelSignature, Arc<GeneratedKernel>>>,
}

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

/// Builds an expression from a function of up to [`MAX_INPUTS`] values. The function may use operators, `f64` constants, the methods of
/// [`Value`] and the functions of this module.
pub fn expression<const N: usize>(f: impl for<'g> FnOnce([Value<'g>; N]) -> Value<'g>) -> Expression {
    const { assert!(N > 0 && N <= MAX_INPUTS, "an expression has 1 to 8 inputs") };
    Expression::from_program(batch_norm::program(|inputs| [f(inputs)]))
}

impl Expression {
    fn from_program(program: Program) -> Expression {
        Expression(Arc::new(Inner {
            forward: ProgramKernels::new(program),
            gradients: Mutex::default(),
            norms: Default::default(),
        }))
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.0.forward.program.inputs
    }

    /// Applies this expression to values within another expression.
    ///
    /// # Panics
    /// If the number of values differs from the number of inputs.
    pub fn call<'g, const N: usize>(&self, inputs: [Value<'g>; N]) -> Value<'g> {
        assert_eq!(self.inputs(), N, "an expression of {} inputs was called with {N}", self.inputs());
        let mut graph = inputs[0].graph.borrow_mut();
        let nodes = graph.inline(&self.0.forward.program, &inputs.map(|value| value.node));
        Value { node: nodes[0], ..inputs[0] }
    }

    /// Gradient with respect to an input, as an expression of the same inputs followed by the upstream gradient.
    ///
    /// # Panics
    /// If the input does not exist.
    pub fn gradient(&self, input: usize) -> Expression {
        assert!(input < self.inputs(), "an expression of {} inputs has no input {input}", self.inputs());
        Expression::from_program(self.gradients(1 << input).program.clone())
    }

    /// CUDA source of this expression for inputs of the given dtypes and broadcasts. The output has the first input's dtype.
    pub fn cuda_source(&self, inputs: &[(DType, Broadcast)]) -> String {
        let outputs = vec![KernelOutput::Elements(inputs[0].0)];
        self.0.forward.generated(KernelSignature { inputs: inputs.to_vec(), outputs }).source.clone()
    }

    /// CUDA source of the gradients of all inputs, for the inputs of [`Expression::cuda_source`].
    pub fn cuda_gradient_source(&self, inputs: &[(DType, Broadcast)]) -> String {
        let all = (1 << self.inputs()) - 1;
        self.gradients(all).generated(KernelSignature::backward(inputs, all)).source.clone()
    }

    /// Gradients with respect to the inputs whose bits are set, as one program.
    pub(crate) fn gradients(&self, wanted: u32) -> Arc<ProgramKernels> {
        let mut known = self.0.gradients.lock().unwrap_or_else(|e| e.into_inner());
        let derive = || {
            let wanted: Vec<bool> = (0..self.inputs()).map(|i| wanted >> i & 1 == 1).collect();
            Arc::new(ProgramKernels::new(differentiate::gradients(&self.0.forward.program, &wanted)))
        };
        known.entry(wanted).or_insert_with(derive).clone()
    }
}

impl ProgramKernels {
    fn new(program: Program) -> ProgramKernels {
        ProgramKernels { program, generated: Mutex::default() }
    }

    /// Kernel for a signature, generated at the first request.
    pub(crate) fn generated(&self, signature: KernelSignature) -> Arc<GeneratedKernel> {
        let mut known = self.generated.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(generated) = known.get(&signature) {
            return generated.clone();
        }
        let generated = Arc::new(GeneratedKernel::new(&self.program, &signature));
        known.insert(signature, generated.clone());
        generated
    }
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

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.0.forward.program).finish()
    }
}

/// Hash of a program and signature, for kernel names.
fn digest(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}
