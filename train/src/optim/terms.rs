//! What formulas of several optimizers have in common.
use super::Rule;
use super::adahessian::Hutchinson;
use super::arguments::Arguments;
use fornax_engine::UpdateRule;
use fornax_engine::fuse::{CpuLoop, Formula, NextState, OptimizerStateSpec, Value};

/// A rule that is not finished: a wrapper may still add to it.
pub(super) struct Draft {
    pub(super) name: &'static str,
    pub(super) keeps: OptimizerStateSpec,
    /// What the CPU has for it.
    pub(super) cpu_loop: Option<CpuLoop>,
    pub(super) formula: Box<dyn for<'g> Fn(&'g Formula) -> NextState<'g>>,
    pub(super) curvature: Option<Hutchinson>,
}

impl Draft {
    /// A rule that keeps these moments, which begin with 0.
    pub(super) fn new(
        name: &'static str,
        moments: &[&'static str],
        formula: impl for<'g> Fn(&'g Formula) -> NextState<'g> + 'static,
    ) -> Draft {
        let moments = moments.iter().map(|name| (*name, 0.0)).collect();
        let keeps = OptimizerStateSpec { moments, ..OptimizerStateSpec::default() };
        Draft { name, keeps, formula: Box::new(formula), curvature: None, cpu_loop: None }
    }

    pub(super) fn rule(self) -> Rule {
        let update = UpdateRule::new(self.name, self.keeps, self.formula);
        let update = match self.cpu_loop {
            Some(cpu_loop) => update.with_cpu_loop(cpu_loop),
            None => update,
        };
        Rule { update, curvature: self.curvature }
    }
}

/// The next elements and moments of a rule that keeps nothing else.
pub(super) fn next<'g>(weight: Value<'g>, moments: impl Into<Vec<Value<'g>>>) -> NextState<'g> {
    NextState { weight, moments: moments.into(), shared_scalars: vec![], param_scalar: None }
}

/// What stays of `old`, and the rest of `new`.
pub(super) fn lerp<'g>(old: Value<'g>, new: Value<'g>, stays: f64) -> Value<'g> {
    stays * old + (1.0 - stays) * new
}

/// A beta's bias in a moment that began with 0: `1 - beta^t`.
pub(super) fn correction(f: &Formula, beta: f64) -> Value<'_> {
    1.0 - f.constant(beta).pow(f.step())
}

/// 1 in the first update, else 0.
pub(super) fn is_first(f: &Formula) -> Value<'_> {
    f.step().equal(1.0)
}

/// How weight decay reaches the weights.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Decay {
    /// As a part of the gradient: L2 regularisation.
    Gradient,
    /// Weights shrink beside the step.
    Decoupled,
    /// The same, by the square of the rate over the highest rate.
    Corrected(f64),
}

impl Decay {
    /// Decoupled, and corrected when that is asked for.
    pub(super) fn decoupled(arguments: &mut Arguments) -> Decay {
        arguments.peak_rate().map_or(Decay::Decoupled, Decay::Corrected)
    }

    /// Decoupled where the flag of that name says so.
    pub(super) fn named(arguments: &mut Arguments, flag: &'static str, default: bool) -> Decay {
        if arguments.flag(flag, default) { Decay::decoupled(arguments) } else { Decay::Gradient }
    }

    /// The gradient with what decay adds to it.
    pub(super) fn gradient<'g>(self, f: &'g Formula) -> Value<'g> {
        match self {
            Decay::Gradient => f.gradient() + f.weight_decay() * f.weight(),
            _ => f.gradient(),
        }
    }

    /// What stays of the weights.
    pub(super) fn keep(self, f: &Formula) -> Value<'_> {
        match self {
            Decay::Gradient => f.constant(1.0),
            Decay::Decoupled => 1.0 - f.lr() * f.weight_decay(),
            Decay::Corrected(peak) => 1.0 - f.lr() * f.lr() / peak * f.weight_decay(),
        }
    }

    /// The weights after decay, before the step.
    pub(super) fn weight(self, f: &Formula) -> Value<'_> {
        f.weight() * self.keep(f)
    }
}

/// The update where it agrees in sign with the gradient, and 0 elsewhere, with the mean size kept (Liang et al., "Cautious optimizers:
/// improving training with one line of code", 2024).
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
