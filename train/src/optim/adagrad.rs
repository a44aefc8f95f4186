//! Adagrad (Duchi et al., "Adaptive subgradient methods for online learning and stochastic optimization", 2011).
use super::arguments::Arguments;
use super::terms::{Decay, Draft, next};

pub(super) fn adagrad(arguments: &mut Arguments) -> Draft {
    let (eps, lr_decay) = (arguments.number("eps", 1e-10), arguments.number("lr_decay", 0.0));
    let first = arguments.number("initial_accumulator_value", 0.0);
    let mut draft = Draft::new("adagrad", &["sum"], move |f| {
        let g = Decay::Gradient.gradient(f);
        let sum = f.moment(0) + g * g;
        let rate = f.lr() / (1.0 + (f.step() - 1.0) * lr_decay);
        next(f.weight() - rate * g / (sum.sqrt() + eps), [sum])
    });
    draft.keeps.moments[0].1 = first as f32;
    draft
}
