//! Optimizers: what an update does to parameters, given their gradients and a learning rate. A file here is one formula, for every
//! device; `registry` has the names under which users know them.
//!
//! Names, defaults and numbers are timm's. Where timm surprises:
//! - `sgd` is with Nesterov momentum, `momentum` without; names that begin with `c` are cautious, and those that end with `c` correct
//!   weight decay by the highest learning rate, but `lambc` and `larc` clip trust ratios.
//! - LAMB clips gradients by their global norm, to 1, whatever the run does: `--opt-kwargs max_grad_norm=none` has it not. LAMB and LARS
//!   adapt the rates of parameters with weight decay only, unless `always_adapt=true`.
//! - AdamP's and SGDP's `wd_ratio` and `nesterov` differ between timm's names and its classes: here they are those of the names.
//! - AdaBelief's `eps` stays in its second moment, update after update.
//! - Lookahead makes its slow copies at the first time it looks, which then changes nothing.
//!
//! And where this differs: an argument that an optimizer does not have is an error, also `eps`, `betas` and `momentum`; Adafactor takes
//! the learning rates that it is given, and has none of its own; there are no optimizers of other libraries' (Apex, bitsandbytes), nor
//! MARS, Muon and Kron.
mod adabelief;
mod adadelta;
mod adafactor;
mod adagrad;
pub mod adahessian;
mod adam;
mod adamax;
mod adan;
mod adopt;
mod arguments;
mod lamb;
mod laprop;
mod lars;
mod lion;
mod lookahead;
mod madgrad;
mod nadam;
mod novograd;
pub mod param_groups;
mod projected;
mod radam;
mod registry;
mod rmsprop;
mod sgd;
mod terms;

pub use arguments::{KwargValue, OptimizerOptions};
pub(crate) use registry::settled_rule;
pub use registry::{OptimizerName, optimizer_names, rule};

use crate::Result;
use adahessian::Hutchinson;
use fornax_engine::{
    DType, Device, GradientRule, Tensor, UpdateOperands, UpdateRule, UpdateState, UpdateStats, update,
};
use fornax_nn::{Module, named_parameters};

/// A parameter as an optimizer sees it.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its dotted name.
    pub name: String,
    /// Its elements and gradient.
    pub tensor: Tensor,
    /// Its weight decay.
    pub weight_decay: f64,
    /// What the learning rate is multiplied by for it.
    pub lr_scale: f64,
    /// Adaptive clipping is for it too.
    pub clips: bool,
}

impl Parameter {
    /// Without weight decay, at the learning rate itself.
    pub fn new(name: impl Into<String>, tensor: Tensor) -> Parameter {
        Parameter { name: name.into(), tensor, weight_decay: 0.0, lr_scale: 1.0, clips: true }
    }
}

/// The parameters of a model. Weight decay skips those of one axis and biases, as timm's groups do; adaptive clipping skips the last
/// two, which are taken for those of the classifier.
pub fn parameters(model: &dyn Module, weight_decay: f64) -> Vec<Parameter> {
    let decays = |name: &str, tensor: &Tensor| tensor.rank() > 1 && !name.ends_with(".bias");
    let all = named_parameters(model);
    let head = all.len().saturating_sub(2);
    let parameter = |(i, (name, tensor)): (usize, (String, Tensor))| {
        let weight_decay = if decays(&name, &tensor) { weight_decay } else { 0.0 };
        Parameter { weight_decay, clips: i < head, ..Parameter::new(name, tensor) }
    };
    all.into_iter().enumerate().map(parameter).collect()
}

/// What an optimizer does.
#[derive(Clone, Debug)]
pub struct Rule {
    /// How weights follow their gradients.
    pub update: UpdateRule,
    /// How the Hessian's diagonal is estimated, where the update reads it.
    pub curvature: Option<Hutchinson>,
}

impl From<UpdateRule> for Rule {
    fn from(update: UpdateRule) -> Rule {
        Rule { update, curvature: None }
    }
}

/// The optimizer of a name; see [`rule`].
pub fn create_optimizer(
    name: &str,
    parameters: Vec<Parameter>,
    options: &OptimizerOptions,
    gradients: GradientRule,
) -> Result<Optimizer> {
    Optimizer::new(parameters, rule(name, options)?, gradients)
}

/// Changes parameters by their gradients.
pub struct Optimizer {
    parameters: Vec<Parameter>,
    rule: UpdateRule,
    curvature: Option<Hutchinson>,
    gradients: GradientRule,
    /// For each moment of the rule one tensor a parameter; an empty one where it is factored.
    moments: Vec<Vec<Tensor>>,
    /// The number that the rule keeps for each parameter, if it does.
    kept: Vec<Tensor>,
    /// Means of the second moment of each parameter that has it factored.
    factors: Vec<Option<[Tensor; 2]>>,
    state: UpdateState,
    round: Option<DType>,
}

impl Optimizer {
    /// For f32 parameters, all on one device.
    pub fn new(
        parameters: Vec<Parameter>,
        rule: impl Into<Rule>,
        gradients: GradientRule,
    ) -> Result<Optimizer> {
        let Rule { update: rule, curvature } = rule.into();
        let device = parameters.first().map_or(Device::Cpu, |p| p.tensor.device());
        let keeps = rule.state_spec();
        let filled = |value: f32| -> fornax_engine::Result<Vec<Tensor>> {
            let full = |p: &Parameter| Tensor::full(*p.tensor.shape(), value.into(), DType::F32, &device);
            parameters.iter().map(full).collect()
        };
        let moments = keeps.moments.iter().map(|(_, first)| filled(*first));
        let mut moments: Vec<Vec<Tensor>> = moments.collect::<fornax_engine::Result<_>>()?;
        let mut factors = vec![];
        for (i, parameter) in parameters.iter().enumerate() {
            let axes = keeps.factored.and_then(|how| how.axes(parameter.tensor.dims()));
            let zeros = |shape: [usize; 2]| Tensor::zeros(shape, DType::F32, &device);
            factors.push(match axes {
                Some([a, b, c]) => Some([zeros([a, b])?, zeros([b, c])?]),
                None => None,
            });
            if axes.is_some() {
                moments[0][i] = Tensor::zeros([0], DType::F32, &device)?;
            }
        }
        let kept = parameters.iter().filter(|_| keeps.param_scalar.is_some());
        let kept =
            kept.map(|_| Tensor::zeros([2], DType::F32, &device)).collect::<fornax_engine::Result<_>>()?;
        let state = UpdateState::new(gradients, &rule, &device)?;
        Ok(Optimizer { parameters, rule, curvature, gradients, moments, kept, factors, state, round: None })
    }

    /// Keeps the weights in half precision: rounds them after every update.
    pub fn rounding_to(mut self, dtype: DType) -> Optimizer {
        self.round = Some(dtype);
        self
    }

    /// Sets the learning rate of the next update.
    pub fn set_lr(&self, lr: f64) -> Result<()> {
        Ok(self.state.set_lr(lr, 0.0)?)
    }

    /// What a loss's backward pass starts from: 1, or the loss scale.
    pub fn upstream(&self) -> Tensor {
        self.state.upstream()
    }

    /// Forgets the gradients.
    pub fn zero_grad(&self) {
        self.parameters.iter().for_each(|p| p.tensor.zero_grad());
    }

    /// True when the backward pass is differentiated in turn: it must be [`Optimizer::backward`] then, and cannot be recorded.
    pub fn needs_graph(&self) -> bool {
        self.curvature.is_some()
    }

    /// The backward pass of a loss, by which variables collect gradients, and the optimizer what else it needs: several between
    /// [`Optimizer::zero_grad`] and an update add up.
    pub fn backward(&self, loss: &Tensor) -> fornax_engine::Result<()> {
        let upstream = self.upstream();
        let Some(curvature) = &self.curvature else { return loss.backward_from(&upstream) };
        let updates = self.updates().item()? as u64;
        if !curvature.is_due(updates) {
            return loss.backward_from(&upstream);
        }
        let diagonals = self.hessian_diagonals();
        if self.parameters.iter().all(|p| p.tensor.grad().is_none()) {
            let clear = |d: &Tensor| d.copy_from(&Tensor::zeros(*d.shape(), d.dtype(), &d.device())?);
            diagonals.iter().try_for_each(clear)?;
        }
        curvature.backward(loss, &upstream, &self.parameters, diagonals, updates)
    }

    /// The estimates of the Hessian's diagonal, a tensor for each parameter; none for an optimizer that needs none. The next update reads
    /// them.
    pub fn hessian_diagonals(&self) -> &[Tensor] {
        let at = self.rule.state_spec().moments.iter().position(|(name, _)| *name == adahessian::DIAGONAL);
        at.map_or(&[], |at| &self.moments[at])
    }

    /// Updates every parameter that has a gradient. Nothing is read back, so that it can be recorded.
    pub fn step(&self) -> fornax_engine::Result<()> {
        if let Some(curvature) = &self.curvature {
            self.hessian_diagonals().iter().try_for_each(|diagonal| curvature.finish(diagonal))?;
        }
        let gradients: Vec<Option<Tensor>> = self.parameters.iter().map(|p| p.tensor.grad()).collect();
        let updated = |(i, parameter): (usize, &'_ Parameter)| {
            Some(UpdateOperands {
                moments: self.moments.iter().map(|of| &of[i]).collect(),
                param_scalar: self.kept.get(i),
                factors: self.factors[i].as_ref().map(|[rows, columns]| [rows, columns]),
                weight_decay: parameter.weight_decay as f32,
                lr_scale: parameter.lr_scale as f32,
                adaptive_clip: parameter.clips,
                round_to: self.round,
                ..UpdateOperands::new(&self.parameters[i].tensor, gradients[i].as_ref()?)
            })
        };
        let all: Vec<UpdateOperands> = self.parameters.iter().enumerate().filter_map(updated).collect();
        update(&self.rule, &all, &self.state)
    }

    /// One update at a learning rate.
    pub fn update(&self, lr: f64) -> Result<()> {
        self.set_lr(lr)?;
        Ok(self.step()?)
    }

    /// Takes the weights back to between lookahead's slow copies and where they are, as at the end of an epoch; nothing for an optimizer
    /// without lookahead. Not to be recorded.
    pub fn sync_lookahead(&self) -> Result<()> {
        let keeps = self.rule.state_spec();
        let Some(at) = keeps.moments.iter().position(|(name, _)| *name == lookahead::SLOW) else {
            return Ok(());
        };
        let ready = keeps.shared_scalars.iter().position(|(name, _)| *name == lookahead::READY);
        let ready = self.state.shared_scalar(ready.expect("both are kept"));
        let has_copies = ready.to_vec::<f32>()?[0] != 0.0;
        for (parameter, slow) in self.parameters.iter().zip(&self.moments[at]) {
            let fast = parameter.tensor.detach();
            if has_copies {
                let between = slow.add(&fast.sub(slow)?.mul_scalar(lookahead::ALPHA)?)?;
                slow.copy_from(&between)?;
                parameter.tensor.copy_from(&between)?;
            } else {
                slow.copy_from(&fast)?;
            }
        }
        Ok(ready.copy_from(&Tensor::scalar(1.0f32)?)?)
    }

    /// Updates done, an i64 scalar on the device.
    pub fn updates(&self) -> &Tensor {
        self.state.updates()
    }

    /// How the last update went; waits for it.
    pub fn report(&self) -> Result<UpdateStats> {
        Ok(self.state.stats()?)
    }

    /// How weights follow their gradients.
    pub fn rule(&self) -> &UpdateRule {
        &self.rule
    }

    /// What it does to gradients before its rule.
    pub fn gradient_rule(&self) -> &GradientRule {
        &self.gradients
    }

    /// All that the next update reads beside parameters and gradients, under unique names. The tensors are the
    /// optimizer's own: writing to them restores a state.
    pub fn state_dict(&self) -> Vec<(String, Tensor)> {
        let keeps = self.rule.state_spec();
        let mut state = vec![("step".to_string(), self.state.updates().clone())];
        if self.gradients.scaling.is_some() {
            state.push(("loss_scale".to_string(), self.state.loss_scale()));
        }
        for (i, (name, _)) in keeps.shared_scalars.iter().enumerate() {
            state.push((name.to_string(), self.state.shared_scalar(i)));
        }
        let moments = keeps.moments.iter().map(|(name, _)| *name).zip(&self.moments);
        for (moment, tensors) in moments.chain(keeps.param_scalar.into_iter().zip([&self.kept])) {
            let named = self.parameters.iter().zip(tensors).filter(|(_, tensor)| tensor.numel() > 0);
            state.extend(named.map(|(p, t)| (format!("{moment}/{}", p.name), t.clone())));
        }
        for (parameter, factors) in self.parameters.iter().zip(&self.factors) {
            let names = ["exp_avg_sq_row", "exp_avg_sq_col"];
            let named = names.into_iter().zip(factors.iter().flatten());
            state.extend(named.map(|(name, t)| (format!("{name}/{}", parameter.name), t.clone())));
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_engine::LossScaling;
    use std::collections::BTreeMap;

    /// A state copied into a fresh optimizer continues to the same bits.
    #[test]
    fn a_restored_state_continues_exactly() {
        let start = Tensor::from_slice(&[1.0f32, -2.0, 3.0], [3]).expect("shape");
        let make = |name: &str| {
            let tensor = start.copy().expect("memory").variable();
            let p = vec![Parameter { weight_decay: 0.1, ..Parameter::new("w", tensor.clone()) }];
            let scaling = Some(LossScaling { init_scale: 1.0, growth_interval: 2, ..LossScaling::default() });
            let gradients = GradientRule { scaling, clip: None };
            let options = OptimizerOptions { lr: Some(0.05), ..OptimizerOptions::default() };
            (tensor, create_optimizer(name, p, &options, gradients).expect("a name"))
        };
        let advance = |(tensor, optimizer): &(Tensor, Optimizer), step: u32| {
            let grad = [0.1 * step as f32, -0.3, 0.7];
            tensor.set_grad(Some(Tensor::from_slice(&grad, [3]).expect("shape")));
            optimizer.update(0.05).expect("updates");
        };
        for name in optimizer_names().flat_map(|name| [name.to_string(), format!("lookahead_{name}")]) {
            let (whole, resumed) = (make(&name), make(&name));
            (0..7).for_each(|step| advance(&whole, step));
            resumed.0.copy_from(&whole.0).expect("same shape");
            let saved: BTreeMap<String, Tensor> =
                whole.1.state_dict().into_iter().map(|(k, t)| (k, t.copy().expect("memory"))).collect();
            resumed.1.state_dict().iter().for_each(|(k, t)| t.copy_from(&saved[k]).expect("same shape"));
            (7..14).for_each(|step| advance(&whole, step));
            (7..14).for_each(|step| advance(&resumed, step));
            let bits = |t: &Tensor| t.to_vec::<f32>().expect("f32");
            assert_eq!(bits(&whole.0), bits(&resumed.0), "{name}");
            assert!(bits(&whole.0).iter().all(|w| w.is_finite()), "{name}: {:?}", bits(&whole.0));
        }
    }
}
