//! The backward pass of batch norm as operations, for where it is to be differentiated in turn.
use super::{BatchNorm, is_two_valued};
use crate::autograd::is_recorded;
use crate::fuse::Expression;
use crate::ops::normalised::{Normalised, Statistics, wide};
use crate::{Activation, Result, Tensor};
use std::sync::Arc;

/// What follows the normalisation.
pub(in crate::ops) enum Nonlinearity {
    /// A built-in activation, of the sum with the residual.
    BuiltIn(Activation),
    /// An expression, of that sum.
    Expression(Expression),
    /// Any whose slopes do not change with x: the function returns them.
    Slopes(Box<dyn Fn() -> Result<Tensor> + Send + Sync>),
}

/// This fresh result of a batch norm, recorded in the graph. `make` builds the backward pass by kernels: the gradients of x, weight,
/// bias and residual, of those that are wanted.
pub(in crate::ops) fn recorded<F>(
    y: Tensor,
    op: &'static str,
    (x, norm, residual): (&Tensor, &BatchNorm, Option<&Tensor>),
    nonlinearity: Nonlinearity,
    make: impl FnOnce() -> F,
) -> Tensor
where
    F: Fn(Tensor, [bool; 4]) -> Result<[Option<Tensor>; 4]> + Send + Sync + 'static,
{
    let inputs: Vec<&Tensor> = [x].into_iter().chain(norm.weight).chain(norm.bias).chain(residual).collect();
    if !is_recorded(&inputs) {
        return y;
    }
    let has = [true, norm.weight.is_some(), norm.bias.is_some(), residual.is_some()];
    let backward = Arc::new(make());
    let kernels = {
        let backward = backward.clone();
        move |grad: Tensor, needs: &[bool]| {
            let mut needs = needs.iter().copied();
            let wanted = has.map(|has| has && needs.next().unwrap_or(false));
            let grads = backward(grad, wanted)?;
            Ok(grads.into_iter().zip(has).filter_map(|(grad, has)| has.then_some(grad)).collect())
        }
    };
    let nonlinearity = match nonlinearity {
        Nonlinearity::BuiltIn(f) if is_two_valued(f) && residual.is_some() => {
            let x = x.detach();
            Nonlinearity::Slopes(Box::new(move || {
                // What the kernels make of ones.
                let ones = Tensor::ones(*x.shape(), x.dtype(), &x.device())?;
                let [.., slopes] = backward(ones, [false, false, false, true])?;
                Ok(slopes.expect("it was wanted"))
            }))
        }
        other => other,
    };
    let sees_residual = match nonlinearity {
        Nonlinearity::BuiltIn(f) => f != Activation::Identity,
        Nonlinearity::Expression(_) => true,
        Nonlinearity::Slopes(_) => false,
    };
    let composition = Composition {
        x: x.clone(),
        weight: norm.weight.cloned(),
        bias: norm.bias.cloned(),
        // The kernels keep it then, too.
        residual: residual.filter(|_| sees_residual).cloned(),
        has_residual: residual.is_some(),
        running: norm.running.filter(|_| !norm.training).map(|(mean, var)| (mean.clone(), var.clone())),
        eps: norm.eps,
        nonlinearity,
    };
    let composed = move |grad: Tensor, needs: &[bool]| composition.backward(&grad, needs);
    y.recorded_fused(op, &inputs, || kernels, || composed)
}

/// What the backward pass needs, with its place in the graph.
struct Composition {
    x: Tensor,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    residual: Option<Tensor>,
    has_residual: bool,
    /// Where the batch is not normalised by its own statistics.
    running: Option<(Tensor, Tensor)>,
    eps: f64,
    nonlinearity: Nonlinearity,
}

impl Composition {
    /// The gradients of x and of what there is of weight, bias and residual, of those that are needed.
    fn backward(&self, grad: &Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let axes: Vec<usize> = (0..self.x.rank() - 1).collect();
        let normalised = match &self.running {
            Some((mean, var)) => Normalised::by_fixed(&self.x, mean, var, self.eps)?,
            None => Normalised::by_own(&self.x, &axes, Statistics::Own, self.eps)?,
        };
        let d = self.through_nonlinearity(&normalised.value, &wide(grad)?)?;
        let c = d.dims()[axes.len()];
        let of_x = || {
            let d = self.weight.as_ref().map_or_else(|| Ok(d.clone()), |w| d.mul(&wide(w)?))?;
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

    /// The gradient of the normalised, scaled and shifted x.
    fn through_nonlinearity(&self, value: &Tensor, grad: &Tensor) -> Result<Tensor> {
        match &self.nonlinearity {
            Nonlinearity::BuiltIn(Activation::Identity) => Ok(grad.clone()),
            Nonlinearity::BuiltIn(activation) => self.sum(value)?.slope(*activation, grad),
            Nonlinearity::Expression(f) => f.gradient(0).apply(&[&self.sum(value)?, grad]),
            Nonlinearity::Slopes(slopes) => grad.mul(&wide(&slopes()?)?),
        }
    }

    /// The normalised x scaled and shifted, and the residual: what an activation sees.
    fn sum(&self, value: &Tensor) -> Result<Tensor> {
        let mut sum = value.clone();
        if let Some(weight) = &self.weight {
            sum = sum.mul(&wide(weight)?)?;
        }
        for term in [&self.bias, &self.residual].into_iter().flatten() {
            sum = sum.add(&wide(term)?)?;
        }
        Ok(sum)
    }
}
