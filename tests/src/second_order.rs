//! Second-order gradients of cases, by `create_graph`.
use crate::cases::Case;
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{DType, Device, Result, Tensor, gradients};

/// Point at which a case is differentiated: its inputs x, an upstream gradient u, and a vector v for each differentiable input.
pub struct EvaluationPoint {
    /// The inputs.
    pub x: Vec<Tensor>,
    /// The upstream gradient, a variable.
    pub u: Tensor,
    /// The vectors.
    pub v: Vec<Tensor>,
}

/// First and second derivatives of a case, each flattened.
#[derive(Debug)]
pub struct Derivatives {
    /// The gradients of `sum(y u)`.
    pub gradient: Vec<f64>,
    /// The gradients of `sum(gradient v)`: the Hessian-vector product of `sum(y u)` and v.
    pub hvp: Vec<f64>,
    /// The gradient of `sum(gradient v)` with respect to u: the Jacobian-vector product of y and v.
    pub jvp: Vec<f64>,
}

impl EvaluationPoint {
    /// A random point in f64, the same at each call.
    pub fn new(case: &Case) -> Result<EvaluationPoint> {
        let x = case.tensors(DType::F64)?;
        let u = case.upstream(&(case.run)(&x)?, DType::F64)?.variable();
        let v = variables(case, &x).into_iter().map(|t| vector(t, &case.name())).collect::<Result<_>>()?;
        Ok(EvaluationPoint { x, u, v })
    }

    /// The same point in another dtype on a device.
    pub fn to(&self, device: &Device, dtype: DType) -> Result<EvaluationPoint> {
        let moved = |t: &Tensor| {
            let moved = t.detach().to_device(&Device::Cpu)?;
            let moved = if t.dtype().is_float() { moved.to_dtype(dtype)? } else { moved };
            let moved = moved.to_device(device)?;
            Ok(if t.is_variable() { moved.variable() } else { moved })
        };
        let all = |list: &[Tensor]| list.iter().map(moved).collect::<Result<_>>();
        Ok(EvaluationPoint { x: all(&self.x)?, u: moved(&self.u)?, v: all(&self.v)? })
    }

    /// Adds `by * v` to x.
    pub fn step(&self, case: &Case, by: f64) -> Result<()> {
        variables(case, &self.x)
            .iter()
            .zip(&self.v)
            .try_for_each(|(t, v)| t.copy_from(&t.detach().add(&v.mul_scalar(by)?)?))
    }

    /// The output and the gradients of `sum(y u)` by a backward pass without `create_graph`, flattened.
    pub fn first_order(&self, case: &Case) -> Result<(Vec<f64>, Vec<f64>)> {
        let y = (case.run)(&self.x)?;
        let grads = gradients(&[(&y, &self.u)], &variables(case, &self.x), false)?;
        Ok((values(&y)?, flat(grads.iter().flatten())?))
    }

    /// First and second derivatives by `create_graph`.
    pub fn second_order(&self, case: &Case) -> Result<Derivatives> {
        let variables = variables(case, &self.x);
        let grads = gradients(&[(&(case.run)(&self.x)?, &self.u)], &variables, true)?;
        let grads: Vec<Tensor> = grads.into_iter().map(|g| g.expect("y depends on every input")).collect();
        let outputs: Vec<(&Tensor, &Tensor)> = grads.iter().zip(&self.v).collect();
        let inputs: Vec<&Tensor> = variables.into_iter().chain([&self.u]).collect();
        let seconds: Vec<Tensor> = gradients(&outputs, &inputs, false)?
            .into_iter()
            .zip(&inputs)
            // A gradient need not depend on every input.
            .map(|(g, t)| g.map_or_else(|| Tensor::zeros(*t.shape(), t.dtype(), &t.device()), Ok))
            .collect::<Result<_>>()?;
        let (jvp, hvp) = seconds.split_last().expect("the gradient of u");
        Ok(Derivatives { gradient: flat(&grads)?, hvp: flat(hvp)?, jvp: values(jvp)? })
    }
}

/// A random vector for a tensor.
pub fn vector(like: &Tensor, name: &str) -> Result<Tensor> {
    let mut rng = RngStream::new(RngKey::new(7, name), 0, 0);
    let data: Vec<f64> = (0..like.numel()).map(|_| f64::from(rng.normal())).collect();
    Tensor::from_vec(data, *like.shape())
}

/// The inputs that have gradients.
fn variables<'a>(case: &Case, x: &'a [Tensor]) -> Vec<&'a Tensor> {
    x.iter().zip(&case.inputs).filter_map(|(t, input)| input.differentiable.then_some(t)).collect()
}

fn values(t: &Tensor) -> Result<Vec<f64>> {
    t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec()
}

fn flat<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Vec<f64>> {
    Ok(tensors.into_iter().map(values).collect::<Result<Vec<_>>>()?.concat())
}
