//! What an optimizer's update does to its parameters, all of them in one call. On a GPU that is a launch that looks at all gradients
//! (where they are scaled or clipped), a small one that decides, and one that unscales, clips, updates, averages and rounds in one pass.
use super::gpu::OnGpu;
use super::update_state::UpdateState;
use crate::cuda::optimizer::Parameter;
use crate::{DType, Device, Error, Result, Tensor, cpu, cuda};

/// How weights follow their gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UpdateRule {
    /// Stochastic gradient descent with momentum (Sutskever et al., 2013) in PyTorch's form, where the learning rate stays outside the
    /// momentum buffer, with L2 weight decay: `g += decay p`, `b = momentum b + g`, `p -= lr b`, or `p -= lr (g + momentum b)`.
    Sgd {
        /// What stays of the momentum buffer.
        momentum: f32,
        /// Nesterov's form: look one step of momentum ahead.
        nesterov: bool,
    },
    /// Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019).
    AdamW {
        /// What stays of both moments, in `[0, 1)`.
        betas: [f64; 2],
        /// What is added to the denominator.
        eps: f32,
    },
}

impl UpdateRule {
    /// Moments that it keeps for each parameter.
    pub const fn moments(&self) -> usize {
        match self {
            UpdateRule::Sgd { .. } => 1,
            UpdateRule::AdamW { .. } => 2,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            UpdateRule::Sgd { .. } => "sgd",
            UpdateRule::AdamW { .. } => "adamw",
        }
    }
}

/// A parameter in an update; all tensors are f32 and of one shape.
#[derive(Clone, Debug)]
pub struct Updated<'a> {
    /// The elements, which change, and with them the copy that [`Tensor::working_copy`] keeps.
    pub weights: &'a Tensor,
    /// Their gradient.
    pub gradient: &'a Tensor,
    /// The moments, which change; as many as the rule has.
    pub moments: Vec<&'a Tensor>,
    /// Averaged weights, which change: `ema = decay * ema + (1 - decay) * weights`.
    pub ema: Option<&'a Tensor>,
    /// The weight decay.
    pub weight_decay: f32,
    /// Round the weights to this dtype: they are kept in half precision, without a more precise master.
    pub round: Option<DType>,
}

/// Updates parameters by a rule, at the rates that `state` holds, unless a gradient is not finite and losses are scaled.
pub fn update(rule: &UpdateRule, parameters: &[Updated], state: &UpdateState) -> Result<()> {
    let copies: Vec<Option<Tensor>> = parameters.iter().map(|p| p.weights.kept_copy()).collect();
    let mut operands = vec![("state", state.numbers())];
    for parameter in parameters {
        check(rule, parameter)?;
        operands.extend(parameter.tensors());
    }
    match OnGpu::of(rule.name(), &operands)? {
        Some(on) => on.named(on_gpu(&on.gpu, rule, parameters, &copies, state))?,
        None => on_cpu(rule, parameters, &copies, state)?,
    }
    parameters.iter().for_each(|p| p.weights.renew_kept_copy());
    Ok(())
}

impl<'a> Updated<'a> {
    fn tensors(&self) -> impl Iterator<Item = (&'static str, &'a Tensor)> {
        let moments = self.moments.clone().into_iter().map(|t| ("moment", t));
        let ema = self.ema.map(|t| ("ema", t));
        [("weights", self.weights), ("gradient", self.gradient)].into_iter().chain(moments).chain(ema)
    }
}

fn check(rule: &UpdateRule, parameter: &Updated) -> Result<()> {
    let op = rule.name();
    let operands: Vec<_> = parameter.tensors().collect();
    if operands.iter().any(|(_, t)| t.dtype() != DType::F32) {
        return Err(Error::dtype(op, &operands, "f32"));
    }
    if operands.iter().any(|(_, t)| t.shape() != parameter.weights.shape()) {
        return Err(Error::shape(
            op,
            &operands,
            "gradient, moments and average must have the shape of the weights",
        ));
    }
    if parameter.moments.len() != rule.moments() {
        let why = format!("the rule keeps {} moments, not {}", rule.moments(), parameter.moments.len());
        return Err(Error::value(op, &operands, why));
    }
    Ok(())
}

fn on_gpu(
    gpu: &std::sync::Arc<cuda::Gpu>,
    rule: &UpdateRule,
    parameters: &[Updated],
    copies: &[Option<Tensor>],
    state: &UpdateState,
) -> cuda::Result<()> {
    let held: Vec<_> =
        parameters.iter().map(|p| p.tensors().map(|(_, t)| t.held()).collect::<Vec<_>>()).collect();
    let held_copies: Vec<_> = copies.iter().map(|copy| copy.as_ref().map(Tensor::held)).collect();
    let tables: Vec<Parameter> = parameters
        .iter()
        .zip(&held)
        .zip(&held_copies)
        .map(|((parameter, held), copy)| {
            let slice = |i: usize| held[i].slice();
            let moments = rule.moments();
            Parameter {
                weights: slice(0),
                gradient: slice(1),
                moments: [slice(2), slice(1 + moments)],
                ema: parameter.ema.map(|_| slice(2 + moments)),
                copy: copy.as_ref().map(|copy| copy.slice()),
                decay: parameter.weight_decay,
                round: parameter.round,
            }
        })
        .collect();
    parameters.iter().flat_map(|p| p.tensors().skip(2)).for_each(|(_, t)| t.touch());
    parameters.iter().for_each(|p| p.weights.touch());
    let (numbers, updates) = (state.numbers().held(), state.updates().held());
    let place = cuda::optimizer::State { numbers: numbers.slice(), updates: updates.slice() };
    cuda::optimizer::update(gpu, rule, &tables, state.rule(), &place)
}

fn on_cpu(
    rule: &UpdateRule,
    parameters: &[Updated],
    copies: &[Option<Tensor>],
    state: &UpdateState,
) -> Result<()> {
    let scale = state.loss_scale().read::<f32>()?[0];
    let mut total = None;
    if state.rule().looks() {
        let mut sum = 0.0;
        for parameter in parameters {
            sum += cpu::optimizer::sum_of_squares(&parameter.gradient.read::<f32>()?, 1.0 / f64::from(scale));
        }
        total = Some(sum);
    }
    let step = {
        let (mut numbers, mut updates) = (state.numbers().write::<f32>()?, state.updates().write::<i64>()?);
        cpu::optimizer::decide(rule, state.rule(), total, &mut numbers, &mut updates[0])
    };
    let Some(step) = step else { return Ok(()) };
    for (parameter, copy) in parameters.iter().zip(copies) {
        debug_assert_eq!(parameter.weights.device(), Device::Cpu);
        let gradient = parameter.gradient.read::<f32>()?;
        let mut moments = parameter.moments.iter().map(|t| t.write::<f32>()).collect::<Result<Vec<_>>>()?;
        let mut ema = parameter.ema.map(|t| t.write::<f32>()).transpose()?;
        let pass = cpu::optimizer::Pass { rule, step, decay: parameter.weight_decay, round: parameter.round };
        let mut weights = parameter.weights.write::<f32>()?;
        let moments: Vec<&mut [f32]> = moments.iter_mut().map(|m| &mut m[..]).collect();
        let ema = ema.as_deref_mut();
        match copy.as_ref().map(|copy| copy.dtype()) {
            Some(DType::F16) => {
                let mut copy = copy.as_ref().expect("there is one").write::<crate::dtype::f16>()?;
                pass.run(&mut weights, &gradient, moments, ema, Some(&mut copy[..]));
            }
            Some(_) => {
                let mut copy = copy.as_ref().expect("there is one").write::<crate::dtype::bf16>()?;
                pass.run(&mut weights, &gradient, moments, ema, Some(&mut copy[..]));
            }
            None => pass.run::<crate::dtype::f16>(&mut weights, &gradient, moments, ema, None),
        }
    }
    Ok(())
}
