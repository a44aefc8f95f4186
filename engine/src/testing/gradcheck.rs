//! Gradients against finite differences.
use super::{CheckError, CheckResult, values};
use crate::random::{RngKey, RngStream};
use crate::{DType, Result, Tensor, gradients, no_grad};

/// Compares the gradients of `f` with central differences, as PyTorch's `gradcheck`: every element of every input that is a variable, for
/// the sum of the output times a random tensor. Inputs in f64, on the CPU, are compared to 1e-6; inputs in f32, on any device, to 2e-2,
/// relative to the largest gradient of the input. f must be smooth within the step of 1e-5 or 2⁻⁶ around the inputs.
///
/// ```
/// use fornax_engine::{Tensor, testing::{gradcheck, gradgradcheck}};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let x = Tensor::from_slice(&[0.5f64, -1.5, 2.0], [3])?.variable();
/// gradcheck(|x| x[0].square()?.tanh(), &[&x])?;
/// gradgradcheck(|x| x[0].square()?.tanh(), &[&x])?;
/// // A wrong gradient of x².
/// let wrong = |x: &[Tensor]| {
///     Tensor::with_gradient(&[&x[0]], |_, x| x[0].square(), |_, grad| Ok(vec![Some(grad.clone())]))
/// };
/// let error = gradcheck(wrong, &[&x]).unwrap_err();
/// assert!(error.to_string().contains("element 1 of input 0"));
/// # Ok(()) }
/// ```
///
/// Errors: a gradient differs; no input is a variable; a variable is not f64 or f32; errors of `f`.
pub fn gradcheck(f: impl Fn(&[Tensor]) -> Result<Tensor>, inputs: &[&Tensor]) -> CheckResult {
    let point = inputs.iter().map(|t| copy(t)).collect::<Result<Vec<_>>>()?;
    let variables: Vec<(usize, &Tensor)> =
        point.iter().enumerate().filter(|(_, t)| t.is_variable()).collect();
    let Some((_, first)) = variables.first() else {
        return Err(CheckError(
            "gradcheck: no input is a variable; call variable() on those that have gradients".into(),
        ));
    };
    let (step, tolerance) = match first.dtype() {
        DType::F64 => (1e-5, 1e-6),
        _ => (2f64.powi(-6), 2e-2),
    };
    if let Some((i, t)) = variables
        .iter()
        .find(|(_, t)| t.dtype() != first.dtype() || !matches!(t.dtype(), DType::F64 | DType::F32))
    {
        return Err(CheckError(format!(
            "gradcheck: input {i} is {}; variables must all be f64, or all f32",
            t.dtype()
        )));
    }
    let y = f(&point)?;
    let upstream = random_like(&y, "upstream")?;
    let wanted: Vec<&Tensor> = variables.iter().map(|(_, t)| *t).collect();
    let gradients = gradients(&[(&y, &upstream)], &wanted, false)?;
    let weights = values(&upstream)?;
    let value = || -> Result<f64> {
        let y = values(&no_grad(|| f(&point))?)?;
        Ok(y.iter().zip(&weights).map(|(y, weight)| y * weight).sum())
    };
    for ((input, t), gradient) in variables.iter().zip(gradients) {
        let x = values(t)?;
        let gradient = match gradient {
            Some(gradient) if gradient.shape() == t.shape() => values(&gradient)?,
            Some(gradient) => {
                let why =
                    format!("gradient of input {input} has shape {}, not {}", gradient.shape(), t.shape());
                return Err(CheckError(why));
            }
            None => vec![0.0; x.len()],
        };
        let scale = gradient.iter().fold(1.0f64, |most, g| most.max(g.abs()));
        for (i, gradient) in gradient.iter().enumerate() {
            let at = |offset: f64| {
                let mut moved = x.clone();
                moved[i] += offset;
                write(t, moved)?;
                value()
            };
            let difference = (at(step)? - at(-step)?) / (2.0 * step);
            // False for NaN, too.
            let is_near = (difference - gradient).abs() <= tolerance * scale;
            if !is_near {
                return Err(CheckError(format!(
                    "gradient of element {i} of input {input}, shape {}: the backward pass gives {gradient}, finite differences \
                     give {difference}",
                    t.shape()
                )));
            }
        }
        write(t, x)?;
    }
    Ok(())
}

/// Compares second derivatives of `f` with central differences of its gradients, as PyTorch's `gradgradcheck`: [`gradcheck`] of the sum of
/// the gradients times random tensors, as a function of the inputs and of the upstream gradient.
///
/// Errors: as for [`gradcheck`]; an operation in `f` has no second derivative.
pub fn gradgradcheck(f: impl Fn(&[Tensor]) -> Result<Tensor>, inputs: &[&Tensor]) -> CheckResult {
    let mut all: Vec<Tensor> = inputs.iter().map(|t| (*t).clone()).collect();
    let y = no_grad(|| f(&all))?;
    all.push(random_like(&y, "upstream gradient")?.variable());
    let weighted_gradients = |all: &[Tensor]| {
        let (upstream, x) = all.split_last().expect("the upstream gradient");
        let y = f(x)?;
        let wanted: Vec<&Tensor> = x.iter().filter(|t| t.requires_grad()).collect();
        let terms = gradients(&[(&y, upstream)], &wanted, true)?.into_iter().enumerate();
        let mut sum = upstream.mul_scalar(0.0)?.sum_all()?;
        for (i, gradient) in terms.filter_map(|(i, gradient)| Some((i, gradient?))) {
            let direction = random_like(&gradient, &format!("direction {i}"))?;
            sum = sum.add(&gradient.mul(&direction)?.sum_all()?)?;
        }
        Ok(sum)
    };
    // The values of finite differences are gradients, too, so they need a graph.
    gradcheck(
        |all| crate::autograd::with_grad_enabled(true, || weighted_gradients(all)),
        &all.iter().collect::<Vec<_>>(),
    )
}

/// A copy of an input, a variable if the input is one.
fn copy(t: &Tensor) -> Result<Tensor> {
    let copy = t.detach().copy()?;
    Ok(if t.requires_grad() { copy.variable() } else { copy })
}

/// Standard normal numbers in the shape, dtype and device of a tensor, the same at each call.
pub(super) fn random_like(t: &Tensor, name: &str) -> Result<Tensor> {
    let mut rng = RngStream::new(RngKey::new(7, name), 0, 0);
    let numbers: Vec<f32> = (0..t.numel()).map(|_| rng.normal()).collect();
    Tensor::from_vec(numbers, *t.shape())?.to_dtype(t.dtype())?.to_device(&t.device())
}

/// Overwrites a tensor.
fn write(t: &Tensor, values: Vec<f64>) -> Result<()> {
    t.copy_from(&Tensor::from_vec(values, *t.shape())?.to_dtype(t.dtype())?.to_device(&t.device())?)
}
