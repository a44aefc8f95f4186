//! Adagrad (Duchi et al., "Adaptive subgradient methods for online learning and stochastic optimization", 2011).
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, next_state};

pub(super) fn adagrad(arguments: &mut Arguments) -> RuleBuilder {
    let (eps, lr_decay) = (arguments.number("eps", 1e-10), arguments.number("lr_decay", 0.0));
    let first = arguments.number("initial_accumulator_value", 0.0);
    let mut builder = RuleBuilder::new("adagrad", &["sum"], move |f| {
        let g = WeightDecay::L2.gradient(f);
        let sum = f.moment(0) + g * g;
        let lr = f.lr() / (1.0 + (f.step() - 1.0) * lr_decay);
        next_state(f.weight() - lr * g / (sum.sqrt() + eps), [sum])
    });
    builder.state_spec.moments[0].1 = first as f32;
    builder
}
