//! Gradients of gradients of cases: by the graph that a backward pass leaves behind.
use crate::cases::Case;
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{DType, Device, Result, Tensor, gradients};

/// A case at a place in f64: its inputs x, an upstream gradient u, and a vector v for each input that has a gradient.
pub struct EvaluationPoint {
    /// The inputs.
    pub x: Vec<Tensor>,
    /// The upstream gradient, a variable.
    pub u: Tensor,
    /// The vectors.
    pub v: Vec<Tensor>,
}

/// What a case gives, each flattened.
#[derive(Debug)]
pub struct Derivatives {
    /// The gradients of `sum(y u)`.
    pub gradient: Vec<f64>,
    /// The gradients of `sum(slope v)`: the Hessian of `sum(y u)` times v.
    pub hvp: Vec<f64>,
    /// The gradient of `sum(slope v)` with respect to u: what y changes by along v.
    pub jvp: Vec<f64>,
}

impl EvaluationPoint {
    /// Random numbers, the same at each call.
    pub fn new(case: &Case) -> Result<EvaluationPoint> {
        let x = case.tensors(DType::F64)?;
        let u = case.upstream(&(case.run)(&x)?, DType::F64)?.variable();
        let v = variables(case, &x).into_iter().map(|t| vector(t, &case.name())).collect::<Result<_>>()?;
        Ok(EvaluationPoint { x, u, v })
    }

    /// The same place in another dtype on a device.
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

    /// Moves x along v.
    pub fn step(&self, case: &Case, by: f64) -> Result<()> {
        variables(case, &self.x)
            .iter()
            .zip(&self.v)
            .try_for_each(|(t, v)| t.copy_from(&t.detach().add(&v.mul_scalar(by)?)?))
    }

    /// The output and the gradients of `sum(y u)`, by the kernels of a backward pass that leaves no graph; flattened.
    pub fn first_order(&self, case: &Case) -> Result<(Vec<f64>, Vec<f64>)> {
        let y = (case.run)(&self.x)?;
        let slopes = gradients(&[(&y, &self.u)], &variables(case, &self.x), false)?;
        Ok((values(&y)?, flat(slopes.iter().flatten())?))
    }

    /// First and second gradients.
    pub fn second_order(&self, case: &Case) -> Result<Derivatives> {
        let variables = variables(case, &self.x);
        let slopes = gradients(&[(&(case.run)(&self.x)?, &self.u)], &variables, true)?;
        let slopes: Vec<Tensor> = slopes.into_iter().map(|g| g.expect("every input matters")).collect();
        let outputs: Vec<(&Tensor, &Tensor)> = slopes.iter().zip(&self.v).collect();
        let inputs: Vec<&Tensor> = variables.into_iter().chain([&self.u]).collect();
        let seconds: Vec<Tensor> = gradients(&outputs, &inputs, false)?
            .into_iter()
            .zip(&inputs)
            // A slope need not depend on every input.
            .map(|(g, t)| g.map_or_else(|| Tensor::zeros(*t.shape(), t.dtype(), &t.device()), Ok))
            .collect::<Result<_>>()?;
        let (along, product) = seconds.split_last().expect("that of u");
        Ok(Derivatives { gradient: flat(&slopes)?, hvp: flat(product)?, jvp: values(along)? })
    }
}

/// A random vector for a tensor.
pub fn vector(like: &Tensor, name: &str) -> Result<Tensor> {
    let mut draws = RngStream::new(RngKey::new(7, name), 0, 0);
    let data: Vec<f64> = (0..like.numel()).map(|_| f64::from(draws.normal())).collect();
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
