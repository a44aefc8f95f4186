//! The backward pass of batch norm as a composition of operations, for `create_graph`.
use super::BatchNorm;
use crate::autograd::{Gradients, Saved, Saves};
use crate::fuse::Expression;
use crate::ops::norm::{NormStatistics, Normalised, to_compute_dtype};
use crate::{Activation, DType, Result, Tensor};

/// The operands of a batch norm in the graph: x, and weight, bias and residual where they are present; and its constants.
pub(super) struct NormOperands {
    has: [bool; 3],
    /// Running mean and variance, in evaluation. In training a composition uses the batch's statistics, and leaves the running ones alone.
    running: Option<(Tensor, Tensor)>,
    eps: f64,
}

impl NormOperands {
    pub(super) fn of(norm: &BatchNorm, residual: Option<&Tensor>) -> NormOperands {
        NormOperands {
            has: [norm.weight.is_some(), norm.bias.is_some(), residual.is_some()],
            running: norm.running.filter(|_| !norm.training).map(|(mean, var)| (mean.clone(), var.clone())),
            eps: norm.eps,
        }
    }

    /// Number of operands.
    pub(super) fn len(&self) -> usize {
        1 + self.has.iter().filter(|has| **has).count()
    }

    pub(super) fn has_residual(&self) -> bool {
        self.has[2]
    }

    /// Position of the residual.
    pub(super) fn residual(&self) -> usize {
        self.len() - 1
    }

    /// The marks of x, weight, bias and residual, from those of the operands.
    pub(super) fn wanted(&self, needs: &[bool]) -> [bool; 4] {
        let mut needs = needs.iter().copied();
        [true, self.has[0], self.has[1], self.has[2]].map(|has| has && needs.next().unwrap_or(false))
    }

    /// The gradients of the operands, from those of x, weight, bias and residual.
    pub(super) fn present(&self, gradients: [Option<Tensor>; 4]) -> Gradients {
        let has = [true, self.has[0], self.has[1], self.has[2]];
        gradients.into_iter().zip(has).filter_map(|(gradient, has)| has.then_some(gradient)).collect()
    }

    /// The operands that a backward pass by kernels or by [`Composition`] reads.
    pub(super) fn saves(&self, saves_residual: bool) -> Saves {
        let count = self.len() - usize::from(self.has_residual() && !saves_residual);
        (0..count).fold(Saves::default(), |saves, i| saves.and_operand_if(true, i))
    }

    /// Dtype of weight and bias.
    pub(super) fn parameter_dtype(&self, saved: &Saved, first: usize) -> DType {
        if self.has[0] || self.has[1] { saved.dtype(first + 1) } else { DType::F32 }
    }

    /// x, and the batch norm of it with these weight and bias, which updates nothing.
    pub(super) fn norm<'a>(&'a self, operands: &'a [Tensor]) -> (&'a Tensor, BatchNorm<'a>) {
        let mut rest = operands[1..].iter();
        let [weight, bias] = [self.has[0], self.has[1]].map(|has| if has { rest.next() } else { None });
        let running = self.running.as_ref().map(|(mean, var)| (mean, var));
        (&operands[0], BatchNorm { weight, bias, running, eps: self.eps, ..BatchNorm::default() })
    }
}

/// Activation after the normalisation and the residual addition.
pub(super) enum Nonlinearity<'a> {
    /// A built-in activation.
    BuiltIn(Activation),
    /// An expression of one input.
    Expression(&'a Expression),
    /// A piecewise linear activation, by its derivative at every element, which is constant in x.
    Derivative(Tensor),
}

/// The backward pass of a batch norm on saved tensors that are still in the graph.
pub(super) struct Composition<'a> {
    operands: &'a NormOperands,
    x: &'a Tensor,
    weight: Option<&'a Tensor>,
    bias: Option<&'a Tensor>,
    /// The residual, if the nonlinearity depends on it.
    residual: Option<&'a Tensor>,
    nonlinearity: Nonlinearity<'a>,
}

impl<'a> Composition<'a> {
    pub(super) fn new(
        operands: &'a NormOperands,
        saved: &'a Saved,
        nonlinearity: Nonlinearity<'a>,
    ) -> Composition<'a> {
        let reads_residual = match nonlinearity {
            Nonlinearity::BuiltIn(f) => f != Activation::Identity,
            Nonlinearity::Expression(_) => true,
            Nonlinearity::Derivative(_) => false,
        };
        let [weight, bias, residual] = operands.has;
        Composition {
            operands,
            x: saved.operand(0),
            weight: weight.then(|| saved.operand(1)),
            bias: bias.then(|| saved.operand(1 + usize::from(weight))),
            residual: (residual && reads_residual).then(|| saved.operand(operands.residual())),
            nonlinearity,
        }
    }

    /// The gradients of the operands that need one.
    pub(super) fn backward(&self, grad: &Tensor, needs: &[bool]) -> Result<Gradients> {
        let (axes, eps): (Vec<usize>, f64) = ((0..self.x.rank() - 1).collect(), self.operands.eps);
        let normalised = match &self.operands.running {
            Some((mean, var)) => Normalised::by_fixed_statistics(self.x, mean, var, eps)?,
            None => Normalised::by_input_statistics(self.x, &axes, NormStatistics::MeanVariance, eps)?,
        };
        let d = self.nonlinearity_gradient(&normalised.value, &to_compute_dtype(grad)?)?;
        let c = d.dims()[axes.len()];
        let of_x = || {
            let d = self.weight.map_or_else(|| Ok(d.clone()), |w| d.mul(&to_compute_dtype(w)?))?;
            normalised.input_gradient(&d)?.to_dtype(self.x.dtype())
        };
        let of = |gradient: &dyn Fn() -> Result<Tensor>, parameter: Option<&Tensor>| {
            let dtype = parameter.map_or(DType::F32, Tensor::dtype);
            gradient()?.sum_to([c])?.to_dtype(dtype)
        };
        let wanted = self.operands.wanted(needs);
        Ok(self.operands.present([
            wanted[0].then(of_x).transpose()?,
            wanted[1].then(|| of(&|| d.mul(&normalised.value), self.weight)).transpose()?,
            wanted[2].then(|| of(&|| Ok(d.clone()), self.bias)).transpose()?,
            wanted[3].then(|| d.to_dtype(self.x.dtype())).transpose()?,
        ]))
    }

    /// The gradient of the activation's input.
    fn nonlinearity_gradient(&self, value: &Tensor, grad: &Tensor) -> Result<Tensor> {
        match &self.nonlinearity {
            Nonlinearity::BuiltIn(Activation::Identity) => Ok(grad.clone()),
            Nonlinearity::BuiltIn(activation) => self.sum(value)?.activation_gradient(*activation, grad),
            Nonlinearity::Expression(f) => f.gradient(0).apply(&[&self.sum(value)?, grad]),
            Nonlinearity::Derivative(derivative) => grad.mul(&to_compute_dtype(derivative)?),
        }
    }

    /// The activation's input: normalised x, scaled and shifted, plus the residual.
    fn sum(&self, value: &Tensor) -> Result<Tensor> {
        let mut sum = value.clone();
        if let Some(weight) = self.weight {
            sum = sum.mul(&to_compute_dtype(weight)?)?;
        }
        for term in [self.bias, self.residual].into_iter().flatten() {
            sum = sum.add(&to_compute_dtype(term)?)?;
        }
        Ok(sum)
    }
}
