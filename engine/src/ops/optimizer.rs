//! What an optimizer's update does to its parameters, all of them in one call: on a GPU that is one launch.
use super::gpu::OnGpu;
use crate::cuda::optimizer::Parameter;
use crate::{DType, Error, Result, Tensor, cpu, cuda};

/// A parameter in an update: its elements, their gradient, and the moments that the rule keeps of it, all f32 of one shape.
#[derive(Clone, Debug)]
pub struct Updated<'a, const MOMENTS: usize> {
    /// The elements, which change.
    pub weights: &'a Tensor,
    /// Their gradient.
    pub gradient: &'a Tensor,
    /// The moments, which change.
    pub moments: [&'a Tensor; MOMENTS],
    /// The weight decay.
    pub weight_decay: f64,
}

/// Stochastic gradient descent with momentum (Sutskever et al., 2013) in PyTorch's form, where the learning rate stays outside the
/// momentum buffer, with L2 weight decay: `g += decay p`, `b = momentum b + g`, `p -= lr b`, or `p -= lr (g + momentum b)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdRule {
    /// The learning rate.
    pub lr: f32,
    /// What stays of the momentum buffer.
    pub momentum: f32,
    /// Nesterov's form: look one step of momentum ahead.
    pub nesterov: bool,
}

impl SgdRule {
    /// Updates parameters, each with its momentum buffer.
    pub fn update(&self, parameters: &[Updated<1>]) -> Result<()> {
        let decay = |parameter: &Updated<1>| parameter.weight_decay as f32;
        if run_on_gpu("sgd", parameters, decay, |gpu, parameters| {
            cuda::optimizer::sgd(gpu, parameters, self)
        })? {
            return Ok(());
        }
        for parameter in parameters {
            let gradient = parameter.gradient.read::<f32>()?;
            let (mut weights, mut buffer) = (parameter.weights.write()?, parameter.moments[0].write()?);
            cpu::optimizer::sgd(self, decay(parameter), &mut weights, &gradient, &mut buffer);
        }
        Ok(())
    }
}

/// Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019), at one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWRule {
    lr: f64,
    /// The step, with the first moment's bias corrected.
    pub(crate) size: f32,
    /// What the second moment's root is divided by to correct its bias.
    pub(crate) root: f32,
    pub(crate) eps: f32,
    pub(crate) betas: [f32; 2],
    /// `1 - beta` of both.
    pub(crate) rests: [f32; 2],
}

impl AdamWRule {
    /// The rule of update number `step`, which counts from 1; both betas in `[0, 1)`.
    pub fn new(lr: f64, betas: [f64; 2], eps: f64, step: i64) -> AdamWRule {
        let [correction1, correction2] = betas.map(|beta| 1.0 - beta.powf(step as f64));
        AdamWRule {
            lr,
            size: (lr / correction1) as f32,
            root: correction2.sqrt() as f32,
            eps: eps as f32,
            betas: betas.map(|beta| beta as f32),
            rests: betas.map(|beta| (1.0 - beta) as f32),
        }
    }

    /// Updates parameters, each with its first and second moment.
    pub fn update(&self, parameters: &[Updated<2>]) -> Result<()> {
        let keep = |parameter: &Updated<2>| (1.0 - self.lr * parameter.weight_decay) as f32;
        if run_on_gpu("adamw", parameters, keep, |gpu, parameters| {
            cuda::optimizer::adamw(gpu, parameters, self)
        })? {
            return Ok(());
        }
        for parameter in parameters {
            let gradient = parameter.gradient.read::<f32>()?;
            let [mut first, mut second] = [parameter.moments[0].write()?, parameter.moments[1].write()?];
            let mut weights = parameter.weights.write()?;
            cpu::optimizer::adamw(self, keep(parameter), &mut weights, &gradient, &mut first, &mut second);
        }
        Ok(())
    }
}

/// Checks the parameters, and runs `launch` when they are on a GPU: false when they are not.
fn run_on_gpu<const MOMENTS: usize>(
    op: &'static str,
    parameters: &[Updated<MOMENTS>],
    decay: impl Fn(&Updated<MOMENTS>) -> f32,
    launch: impl FnOnce(&cuda::Gpu, &[Parameter]) -> cuda::Result<()>,
) -> Result<bool> {
    let mut operands: Vec<(&'static str, &Tensor)> = vec![];
    for parameter in parameters {
        let first = operands.len();
        operands.extend([("weights", parameter.weights), ("gradient", parameter.gradient)]);
        operands.extend(parameter.moments.map(|moment| ("moment", moment)));
        let own = &operands[first..];
        if own.iter().any(|(_, t)| t.dtype() != DType::F32) {
            return Err(Error::dtype(op, own, "f32"));
        }
        if own.iter().any(|(_, t)| t.shape() != parameter.weights.shape()) {
            return Err(Error::shape(op, own, "gradient and moments must have the shape of the weights"));
        }
    }
    if operands.is_empty() {
        return Ok(true);
    }
    let Some(on) = OnGpu::of(op, &operands)? else { return Ok(false) };
    let held: Vec<_> = operands.iter().map(|(_, t)| t.held()).collect();
    let tables = parameters.iter().zip(held.chunks_exact(2 + MOMENTS));
    let tables: Vec<Parameter> = tables
        .map(|(parameter, held)| Parameter {
            weights: held[0].slice(),
            gradient: held[1].slice(),
            moments: [held[2].slice(), held[1 + MOMENTS].slice()],
            decay: decay(parameter),
        })
        .collect();
    on.named(launch(&on.gpu, &tables))?;
    Ok(true)
}
