//! Terms that several optimizers share.
use super::OptimizerRule;
use super::adahessian::Hutchinson;
use super::arguments::Arguments;
use super::muon::Orthogonalization;
use fornax_engine::UpdateRule;
use fornax_engine::fuse::{CpuLoop, Formula, NextState, OptimizerStateSpec, Value};

/// Update formula under construction; Lookahead wraps it.
pub(super) struct RuleBuilder {
    pub(super) name: &'static str,
    pub(super) state_spec: OptimizerStateSpec,
    /// The CPU's hand-written loop for it, if any.
    pub(super) cpu_loop: Option<CpuLoop>,
    pub(super) formula: Box<dyn for<'g> Fn(&'g Formula) -> NextState<'g>>,
    pub(super) hessian: Option<Hutchinson>,
    pub(super) orthogonalization: Option<Orthogonalization>,
}

impl RuleBuilder {
    /// Creates a formula with these moments, initialised to 0.
    pub(super) fn new(
        name: &'static str,
        moments: &[&'static str],
        formula: impl for<'g> Fn(&'g Formula) -> NextState<'g> + 'static,
    ) -> RuleBuilder {
        let moments = moments.iter().map(|name| (*name, 0.0)).collect();
        let state_spec = OptimizerStateSpec { moments, ..OptimizerStateSpec::default() };
        RuleBuilder {
            name,
            state_spec,
            formula: Box::new(formula),
            hessian: None,
            orthogonalization: None,
            cpu_loop: None,
        }
    }

    pub(super) fn build(self) -> OptimizerRule {
        let update = UpdateRule::new(self.name, self.state_spec, self.formula);
        let update = match self.cpu_loop {
            Some(cpu_loop) => update.with_cpu_loop(cpu_loop),
            None => update,
        };
        OptimizerRule { update, hessian: self.hessian, orthogonalization: self.orthogonalization }
    }
}

/// The next weights and moments of a formula without other state.
pub(super) fn next_state<'g>(weight: Value<'g>, moments: impl Into<Vec<Value<'g>>>) -> NextState<'g> {
    NextState { weight, moments: moments.into(), shared_scalars: vec![], param_scalar: None }
}

/// `beta * old + (1 - beta) * new`: one step of an exponential moving average.
pub(super) fn lerp<'g>(old: Value<'g>, new: Value<'g>, beta: f64) -> Value<'g> {
    beta * old + (1.0 - beta) * new
}

/// Bias correction of a moment that started at 0: `1 - beta^t`.
pub(super) fn bias_correction(f: &Formula, beta: f64) -> Value<'_> {
    1.0 - f.constant(beta).pow(f.step())
}

/// 1 in the first update, else 0.
pub(super) fn is_first(f: &Formula) -> Value<'_> {
    f.step().equal(1.0)
}

/// Kind of weight decay.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum WeightDecay {
    /// L2 regularisation: added to the gradient.
    L2,
    /// Decoupled: `w *= 1 - lr * wd`.
    Decoupled,
    /// Decoupled and corrected: `w *= 1 - lr^2 / peak_lr * wd`, with the peak learning rate.
    Corrected(f64),
}

impl WeightDecay {
    /// Decoupled, or corrected if the argument `corrected_weight_decay` is set.
    pub(super) fn decoupled(arguments: &mut Arguments) -> WeightDecay {
        arguments.peak_lr().map_or(WeightDecay::Decoupled, WeightDecay::Corrected)
    }

    /// Decoupled (or corrected) if the argument `flag` is set, else L2.
    pub(super) fn from_flag(arguments: &mut Arguments, flag: &'static str, default: bool) -> WeightDecay {
        if arguments.flag(flag, default) { WeightDecay::decoupled(arguments) } else { WeightDecay::L2 }
    }

    /// The gradient, plus `wd * w` for L2.
    pub(super) fn gradient<'g>(self, f: &'g Formula) -> Value<'g> {
        match self {
            WeightDecay::L2 => f.gradient() + f.weight_decay() * f.weight(),
            _ => f.gradient(),
        }
    }

    /// The factor of decoupled decay; 1 for L2.
    pub(super) fn factor(self, f: &Formula) -> Value<'_> {
        match self {
            WeightDecay::L2 => f.constant(1.0),
            WeightDecay::Decoupled => 1.0 - f.lr() * f.weight_decay(),
            WeightDecay::Corrected(peak) => 1.0 - f.lr() * f.lr() / peak * f.weight_decay(),
        }
    }

    /// The weights after decoupled decay, before the step.
    pub(super) fn decayed_weight(self, f: &Formula) -> Value<'_> {
        f.weight() * self.factor(f)
    }
}

/// Cautious update: 0 where the signs of update and gradient differ, rescaled by the fraction that remains (Liang et al., "Cautious
/// optimizers: improving training with one line of code", 2024).
pub(super) fn cautious<'g>(
    f: &'g Formula,
    caution: bool,
    update: Value<'g>,
    gradient: Value<'g>,
) -> Value<'g> {
    if !caution {
        return update;
    }
    let agrees = (update * gradient).greater(0.0);
    update * (agrees / f.mean(agrees).max(1e-3))
}
