//! Functions of scalars that run over tensors as one operation.
use super::batch_norm::{BatchNormKernels, GradStorage};
use super::differentiate;
use super::graph::Program;
use super::program_kernels::ProgramKernels;
use super::signature::{Broadcast, KernelOutput, KernelSignature};
use super::value::{Value, trace};
use crate::DType;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

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

/// Builds an expression from a function of up to [`MAX_INPUTS`] values. The function may use operators, `f64` constants, the methods of
/// [`Value`] and the functions of this module.
pub fn expression<const N: usize>(f: impl for<'g> FnOnce([Value<'g>; N]) -> Value<'g>) -> Expression {
    const { assert!(N > 0 && N <= MAX_INPUTS, "an expression has 1 to 8 inputs") };
    Expression::from_program(trace(|inputs| [f(inputs)]))
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
        Value::of_program(&self.0.forward.program, inputs)
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

    /// Kernels of a batch norm with this activation.
    pub(crate) fn batch_norm(&self, between: GradStorage) -> Arc<BatchNormKernels> {
        let passes = || {
            let derivative = self.gradients(1);
            Arc::new(BatchNormKernels::new(&self.0.forward.program, &derivative.program, between))
        };
        self.0.norms[between as usize].get_or_init(passes).clone()
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

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.0.forward.program).finish()
    }
}
