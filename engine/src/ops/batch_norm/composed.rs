//! The backward pass of batch norm as a composition of operations, for `create_graph`.
use super::output_gradient::{OutputGradient, fused_backward};
use super::{BatchNorm, has_binary_derivative};
use crate::autograd::is_tracked;
use crate::fuse::Expression;
use crate::ops::norm::{NormStatistics, Normalised, to_compute_dtype};
use crate::{Activation, Result, Tensor};
use std::sync::Arc;

/// Activation after the normalisation and the residual addition.
pub(super) enum Nonlinearity {
    /// A built-in activation.
    BuiltIn(Activation),
    /// An expression of one input.
    Expression(Expression),
    /// A piecewise linear activation: the function returns its derivative for every element, which is constant in x.
    Derivatives(Box<dyn Fn() -> Result<Tensor> + Send + Sync>),
}

/// Adds this result of a batch norm to the graph. `make` builds the backward pass by kernels, which returns the wanted gradients of x,
/// weight, bias and residual; it `joins` if it may compute the last term of its gradient. With statistics of several ranks it has no
/// derivative.
pub(super) fn with_batch_norm_backward<F>(
    y: Tensor,
    op: &'static str,
    (x, norm, residual): (&Tensor, &BatchNorm, Option<&Tensor>),
    nonlinearity: Nonlinearity,
    joins: bool,
    make: impl FnOnce() -> F,
) -> Tensor
where
    F: Fn(OutputGradient, [bool; 4]) -> Result<[Option<Tensor>; 4]> + Send + Sync + 'static,
{
    let inputs: Vec<&Tensor> = [x].into_iter().chain(norm.weight).chain(norm.bias).chain(residual).collect();
    if !is_tracked(&inputs) {
        return y;
    }
    let has = [true, norm.weight.is_some(), norm.bias.is_some(), residual.is_some()];
    let backward = Arc::new(make());
    let by_kernels = {
        let backward = backward.clone();
        move |grad: OutputGradient, needs: &[bool]| {
            let mut needs = needs.iter().copied();
            let wanted = has.map(|has| has && needs.next().unwrap_or(false));
            let grads = backward(grad, wanted)?;
            Ok(grads.into_iter().zip(has).filter_map(|(grad, has)| has.then_some(grad)).collect())
        }
    };
    if norm.synced().is_some() {
        return y.with_fused(op, &inputs, || fused_backward(by_kernels, joins, None));
    }
    let nonlinearity = match nonlinearity {
        Nonlinearity::BuiltIn(f) if has_binary_derivative(f) && residual.is_some() => {
            let x = x.detach();
            Nonlinearity::Derivatives(Box::new(move || {
                // The gradient of the residual for a dy of ones.
                let ones = Tensor::ones(*x.shape(), x.dtype(), &x.device())?;
                let [.., derivatives] =
                    backward(OutputGradient::Computed(ones), [false, false, false, true])?;
                Ok(derivatives.expect("it was wanted"))
            }))
        }
        other => other,
    };
    let saves_residual = match nonlinearity {
        Nonlinearity::BuiltIn(f) => f != Activation::Identity,
        Nonlinearity::Expression(_) => true,
        Nonlinearity::Derivatives(_) => false,
    };
    let composition = ComposedBackward {
        x: x.clone(),
        weight: norm.weight.cloned(),
        bias: norm.bias.cloned(),
        // The kernels save it in these cases, too.
        residual: residual.filter(|_| saves_residual).cloned(),
        has_residual: residual.is_some(),
        running: norm.running.filter(|_| !norm.training).map(|(mean, var)| (mean.clone(), var.clone())),
        eps: norm.eps,
        nonlinearity,
    };
    let composed = Box::new(move |grad: Tensor, needs: &[bool]| composition.backward(&grad, needs));
    y.with_fused(op, &inputs, || fused_backward(by_kernels, joins, Some(composed)))
}

/// Tensors saved for the backward pass, not detached from the graph.
struct ComposedBackward {
    x: Tensor,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    residual: Option<Tensor>,
    has_residual: bool,
    /// Running mean and variance, in evaluation.
    running: Option<(Tensor, Tensor)>,
    eps: f64,
    nonlinearity: Nonlinearity,
}

impl ComposedBackward {
    /// The gradients of x and of those of weight, bias and residual that are present; `None` where not needed.
    fn backward(&self, grad: &Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let axes: Vec<usize> = (0..self.x.rank() - 1).collect();
        let normalised = match &self.running {
            Some((mean, var)) => Normalised::by_fixed_statistics(&self.x, mean, var, self.eps)?,
            None => Normalised::by_input_statistics(&self.x, &axes, NormStatistics::MeanVariance, self.eps)?,
        };
        let d = self.nonlinearity_gradient(&normalised.value, &to_compute_dtype(grad)?)?;
        let c = d.dims()[axes.len()];
        let of_x = || {
            let d = self.weight.as_ref().map_or_else(|| Ok(d.clone()), |w| d.mul(&to_compute_dtype(w)?))?;
            normalised.input_gradient(&d)?.to_dtype(self.x.dtype())
        };
        let mut needs = needs.iter().copied();
        let mut needed = || needs.next().unwrap_or(false);
        let mut grads = vec![needed().then(of_x).transpose()?];
        if let Some(weight) = &self.weight {
            let dw = needed().then(|| d.mul(&normalised.value)?.sum_to([c])?.to_dtype(weight.dtype()));
            grads.push(dw.transpose()?);
        }
        if let Some(bias) = &self.bias {
            let db = needed().then(|| d.sum_to([c])?.to_dtype(bias.dtype()));
            grads.push(db.transpose()?);
        }
        if self.has_residual {
            grads.push(needed().then(|| d.to_dtype(self.x.dtype())).transpose()?);
        }
        Ok(grads)
    }

    /// The gradient of the activation's input.
    fn nonlinearity_gradient(&self, value: &Tensor, grad: &Tensor) -> Result<Tensor> {
        match &self.nonlinearity {
            Nonlinearity::BuiltIn(Activation::Identity) => Ok(grad.clone()),
            Nonlinearity::BuiltIn(activation) => self.sum(value)?.activation_gradient(*activation, grad),
            Nonlinearity::Expression(f) => f.gradient(0).apply(&[&self.sum(value)?, grad]),
            Nonlinearity::Derivatives(derivatives) => grad.mul(&to_compute_dtype(&derivatives()?)?),
        }
    }

    /// The activation's input: normalised x, scaled and shifted, plus the residual.
    fn sum(&self, value: &Tensor) -> Result<Tensor> {
        let mut sum = value.clone();
        if let Some(weight) = &self.weight {
            sum = sum.mul(&to_compute_dtype(weight)?)?;
        }
        for term in [&self.bias, &self.residual].into_iter().flatten() {
            sum = sum.add(&to_compute_dtype(term)?)?;
        }
        Ok(sum)
    }
}
