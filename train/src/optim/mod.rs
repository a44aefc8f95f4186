//! Optimizers. Each file holds one update formula, which every device runs; `registry` maps timm's names to them.
//!
//! Names, defaults and results are timm's. Surprising properties of timm's optimizers:
//! - `sgd` uses Nesterov momentum, `momentum` does not; the prefix `c` means cautious updates, the suffix `c` corrected weight decay
//!   (relative to the peak learning rate), except in `lambc` and `larc`, where it means clipped trust ratios.
//! - LAMB clips gradients by their global norm to 1, independently of `--clip-grad`; `--opt-kwargs max_grad_norm=none` disables it. LAMB
//!   and LARS adapt the learning rate only of parameters with weight decay, unless `always_adapt=true`.
//! - The defaults of `wd_ratio` and `nesterov` in AdamP and SGDP differ between timm's factory and its classes; these are the factory's.
//! - AdaBelief adds `eps` to its second moment at every update.
//! - Lookahead creates its slow weights at the first synchronisation, which therefore changes nothing.
//!
//! Differences from timm: an argument that an optimizer does not have is an error, including `eps`, `betas` and `momentum`; Adafactor
//! uses the given learning rate and computes none itself; Muon flattens convolution weights and has the coefficients `quintic` and the
//! learning-rate adjustment `match_rms_adamw` only; the optimizers of other libraries (Apex, bitsandbytes), MARS and Kron are missing.
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
mod muon;
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
pub use muon::Orthogonalization;
pub(crate) use registry::resolve_rule;
pub use registry::{OptimizerName, optimizer_names, optimizer_names_with_lookahead, rule};

use crate::Result;
use adahessian::Hutchinson;
use fornax_engine::{
    DType, Device, GradientRule, PendingUpdateStats, Tensor, UpdateOperands, UpdateRule, UpdateState,
    UpdateStats, update,
};
use fornax_nn::{Module, named_parameters};

/// Parameter with its optimizer settings.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Dotted name.
    pub name: String,
    /// The tensor, which holds the gradient too.
    pub tensor: Tensor,
    /// Weight decay.
    pub weight_decay: f64,
    /// Multiplier of the learning rate.
    pub lr_scale: f64,
    /// Adaptive gradient clipping applies.
    pub adaptive_clip: bool,
}

impl Parameter {
    /// Creates a parameter without weight decay and with `lr_scale` 1.
    pub fn new(name: impl Into<String>, tensor: Tensor) -> Parameter {
        Parameter { name: name.into(), tensor, weight_decay: 0.0, lr_scale: 1.0, adaptive_clip: true }
    }
}

/// The parameters of a model. As in timm, weight decay skips biases and one-dimensional parameters, and adaptive clipping skips the last
/// two parameters, which are assumed to be the classifier's.
pub fn parameters(model: &dyn Module, weight_decay: f64) -> Vec<Parameter> {
    let decays = |name: &str, tensor: &Tensor| tensor.rank() > 1 && !name.ends_with(".bias");
    let all = named_parameters(model);
    let head = all.len().saturating_sub(2);
    let parameter = |(i, (name, tensor)): (usize, (String, Tensor))| {
        let weight_decay = if decays(&name, &tensor) { weight_decay } else { 0.0 };
        Parameter { weight_decay, adaptive_clip: i < head, ..Parameter::new(name, tensor) }
    };
    all.into_iter().enumerate().map(parameter).collect()
}

/// Update formula of an optimizer.
#[derive(Clone, Debug)]
pub struct OptimizerRule {
    /// The update rule.
    pub update: UpdateRule,
    /// Estimator of the Hessian's diagonal, if the update rule reads it.
    pub hessian: Option<Hutchinson>,
    /// Second pass over weight matrices, if the optimizer is Muon.
    pub orthogonalization: Option<Orthogonalization>,
}

impl From<UpdateRule> for OptimizerRule {
    fn from(update: UpdateRule) -> OptimizerRule {
        OptimizerRule { update, hessian: None, orthogonalization: None }
    }
}

/// Creates the optimizer of a name; see [`rule`] for errors.
pub fn create_optimizer(
    name: &str,
    parameters: Vec<Parameter>,
    options: &OptimizerOptions,
    gradients: GradientRule,
) -> Result<Optimizer> {
    Optimizer::new(parameters, rule(name, options)?, gradients)
}

/// Optimizer: updates parameters from their gradients.
pub struct Optimizer {
    parameters: Vec<Parameter>,
    rule: UpdateRule,
    hessian: Option<Hutchinson>,
    orthogonalization: Option<Orthogonalization>,
    gradients: GradientRule,
    /// For each moment of the rule, one tensor per parameter; empty where the moment is factored.
    moments: Vec<Vec<Tensor>>,
    /// The rule's scalar state per parameter, if it has one.
    param_scalars: Vec<Tensor>,
    /// Row and column means of each parameter whose second moment is factored.
    factors: Vec<Option<[Tensor; 2]>>,
    state: UpdateState,
    round_to: Option<DType>,
}

impl Optimizer {
    /// Creates an optimizer of f32 parameters, all on one device.
    pub fn new(
        parameters: Vec<Parameter>,
        rule: impl Into<OptimizerRule>,
        gradients: GradientRule,
    ) -> Result<Optimizer> {
        let OptimizerRule { update: rule, hessian, orthogonalization } = rule.into();
        // A second-order optimizer adds to the gradients itself.
        if hessian.is_none() {
            parameters.iter().for_each(|p| p.tensor.allow_low_precision_grad());
        }
        let device = parameters.first().map_or(Device::Cpu, |p| p.tensor.device());
        let state_spec = rule.state_spec();
        let filled = |value: f32| -> fornax_engine::Result<Vec<Tensor>> {
            let full = |p: &Parameter| Tensor::full(*p.tensor.shape(), value.into(), DType::F32, &device);
            parameters.iter().map(full).collect()
        };
        let moments = state_spec.moments.iter().map(|(_, first)| filled(*first));
        let mut moments: Vec<Vec<Tensor>> = moments.collect::<fornax_engine::Result<_>>()?;
        let mut factors = vec![];
        for (i, parameter) in parameters.iter().enumerate() {
            let axes = state_spec.factored.and_then(|how| how.axes(parameter.tensor.dims()));
            let zeros = |shape: [usize; 2]| Tensor::zeros(shape, DType::F32, &device);
            factors.push(match axes {
                Some([a, b, c]) => Some([zeros([a, b])?, zeros([b, c])?]),
                None => None,
            });
            if axes.is_some() {
                moments[0][i] = Tensor::zeros([0], DType::F32, &device)?;
            }
        }
        let param_scalars = parameters.iter().filter(|_| state_spec.param_scalar.is_some());
        // Muon's scalar marks the parameters that are orthogonalised.
        let first = |p: &Parameter| {
            f64::from(orthogonalization.is_some() && muon::is_orthogonalised(p.tensor.dims()))
        };
        let param_scalars = param_scalars
            .map(|p| Tensor::full([2], first(p), DType::F32, &device))
            .collect::<fornax_engine::Result<_>>()?;
        let state = UpdateState::new(gradients, &rule, &device)?;
        Ok(Optimizer {
            parameters,
            rule,
            hessian,
            orthogonalization,
            gradients,
            moments,
            param_scalars,
            factors,
            state,
            round_to: None,
        })
    }

    /// Rounds the weights to `dtype` after every update (pure half precision).
    pub fn with_rounded_weights(mut self, dtype: DType) -> Optimizer {
        self.round_to = Some(dtype);
        self
    }

    /// Sets the learning rate of the next update.
    pub fn set_lr(&self, lr: f64) -> Result<()> {
        self.set_lr_and_ema_decay(lr, 0.0)
    }

    /// Sets the learning rate of the next update, and the decay of [`Optimizer::step_with_ema`].
    pub fn set_lr_and_ema_decay(&self, lr: f64, ema_decay: f64) -> Result<()> {
        Ok(self.state.set_lr(lr, ema_decay)?)
    }

    /// Upstream gradient of the loss: 1, or the loss scale.
    pub fn upstream(&self) -> Tensor {
        self.state.upstream()
    }

    /// Clears the gradients.
    pub fn zero_grad(&self) {
        self.parameters.iter().for_each(|p| p.tensor.zero_grad());
    }

    /// True for second-order optimizers: they need [`Optimizer::backward`], which differentiates the backward pass (`create_graph`) and
    /// cannot be captured.
    pub fn is_second_order(&self) -> bool {
        self.hessian.is_some()
    }

    /// Runs the backward pass of a loss: accumulates gradients and, for a second-order optimizer, estimates of the Hessian's diagonal.
    pub fn backward(&self, loss: &Tensor) -> fornax_engine::Result<()> {
        let upstream = self.upstream();
        let Some(hessian) = &self.hessian else { return loss.backward_from(&upstream) };
        let updates = self.updates().item()? as u64;
        if !hessian.is_due(updates) {
            return loss.backward_from(&upstream);
        }
        let diagonals = self.hessian_diagonals();
        if self.parameters.iter().all(|p| p.tensor.grad().is_none()) {
            let clear = |d: &Tensor| d.copy_from(&Tensor::zeros(*d.shape(), d.dtype(), &d.device())?);
            diagonals.iter().try_for_each(clear)?;
        }
        hessian.backward(loss, &upstream, &self.parameters, diagonals, updates)
    }

    /// Estimates of the Hessian's diagonal, one tensor per parameter, which the next update reads; empty for a first-order optimizer.
    pub fn hessian_diagonals(&self) -> &[Tensor] {
        let at = self.rule.state_spec().moments.iter().position(|(name, _)| *name == adahessian::DIAGONAL);
        at.map_or(&[], |at| &self.moments[at])
    }

    /// Updates every parameter that has a gradient. Reads nothing back to the host, so it can be captured.
    pub fn step(&self) -> fornax_engine::Result<()> {
        self.step_with_ema(|_| None).map(drop)
    }

    /// [`Optimizer::step`] that updates EMA weights in the same pass; `ema_of` returns those of a parameter by name. The result is the
    /// names of the parameters whose EMA is updated: those with a gradient, unless a second pass writes their weights.
    pub fn step_with_ema<'a>(
        &self,
        ema_of: impl Fn(&str) -> Option<&'a Tensor>,
    ) -> fornax_engine::Result<Vec<&str>> {
        if let Some(hessian) = &self.hessian {
            self.hessian_diagonals()
                .iter()
                .try_for_each(|diagonal| hessian.average_over_kernels(diagonal))?;
        }
        let gradients: Vec<Option<Tensor>> = self.parameters.iter().map(|p| p.tensor.grad()).collect();
        let is_orthogonalised =
            |p: &Parameter| self.orthogonalization.is_some() && muon::is_orthogonalised(p.tensor.dims());
        let ema_of = |p: &Parameter| ema_of(&p.name).filter(|_| !is_orthogonalised(p));
        let updated = |(i, parameter): (usize, &'_ Parameter)| {
            Some(UpdateOperands {
                moments: self.moments.iter().map(|of| &of[i]).collect(),
                param_scalar: self.param_scalars.get(i),
                factors: self.factors[i].as_ref().map(|[rows, columns]| [rows, columns]),
                weight_decay: parameter.weight_decay as f32,
                lr_scale: parameter.lr_scale as f32,
                adaptive_clip: parameter.adaptive_clip,
                round_to: self.round_to,
                ema: ema_of(parameter),
                ..UpdateOperands::new(&self.parameters[i].tensor, gradients[i].as_ref()?)
            })
        };
        let all: Vec<UpdateOperands> = self.parameters.iter().enumerate().filter_map(updated).collect();
        update(&self.rule, &all, &self.state)?;
        if let Some(orthogonalization) = &self.orthogonalization {
            let matrices = self.parameters.iter().enumerate();
            let matrices = matrices.filter(|(i, p)| gradients[*i].is_some() && is_orthogonalised(p));
            for (i, parameter) in matrices {
                let moments: Vec<&Tensor> = self.moments.iter().map(|of| &of[i]).collect();
                orthogonalization.step(parameter, &moments, &self.state, self.round_to)?;
            }
        }
        let updated = self.parameters.iter().zip(&gradients).filter(|(_, gradient)| gradient.is_some());
        let averaged = updated.filter(|(parameter, _)| ema_of(parameter).is_some());
        Ok(averaged.map(|(parameter, _)| &*parameter.name).collect())
    }

    /// Sets the learning rate and runs one update.
    pub fn update(&self, lr: f64) -> Result<()> {
        self.set_lr(lr)?;
        Ok(self.step()?)
    }

    /// Synchronises Lookahead's slow and fast weights, as at the end of an epoch; no effect without Lookahead. Must not be captured.
    pub fn sync_lookahead(&self) -> Result<()> {
        let state_spec = self.rule.state_spec();
        let Some(at) = state_spec.moments.iter().position(|(name, _)| *name == lookahead::SLOW) else {
            return Ok(());
        };
        let ready = state_spec.shared_scalars.iter().position(|(name, _)| *name == lookahead::READY);
        let ready = self.state.shared_scalar(ready.expect("both are in the spec"));
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

    /// Number of updates, an i64 scalar on the device.
    pub fn updates(&self) -> &Tensor {
        self.state.updates()
    }

    /// Statistics of the last update; waits for the device.
    pub fn stats(&self) -> Result<UpdateStats> {
        Ok(self.state.stats()?)
    }

    /// Statistics of the last update, without waiting for it.
    pub fn stats_later(&self) -> Result<PendingUpdateStats> {
        Ok(self.state.stats_later()?)
    }

    /// The parameters.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The update rule.
    pub fn rule(&self) -> &UpdateRule {
        &self.rule
    }

    /// Gradient processing before the update rule: loss scaling and clipping.
    pub fn gradient_rule(&self) -> &GradientRule {
        &self.gradients
    }

    /// The optimizer's state tensors under unique names: everything that the next update reads besides parameters and gradients. The
    /// tensors are shared: writing to them restores a state.
    pub fn state_dict(&self) -> Vec<(String, Tensor)> {
        let state_spec = self.rule.state_spec();
        let mut state = vec![("step".to_string(), self.state.updates().clone())];
        if self.gradients.scaling.is_some() {
            state.push(("loss_scale".to_string(), self.state.loss_scale()));
        }
        for (i, (name, _)) in state_spec.shared_scalars.iter().enumerate() {
            state.push((name.to_string(), self.state.shared_scalar(i)));
        }
        let moments = state_spec.moments.iter().map(|(name, _)| *name).zip(&self.moments);
        for (moment, tensors) in moments.chain(state_spec.param_scalar.into_iter().zip([&self.param_scalars]))
        {
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

    #[test]
    fn restored_state_continues_bit_for_bit() {
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
        for name in optimizer_names_with_lookahead() {
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
