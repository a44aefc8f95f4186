//! Adadelta (Zeiler, "ADADELTA: an adaptive learning rate method", 2012).
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, lerp, next_state};

pub(super) fn adadelta(arguments: &mut Arguments) -> RuleBuilder {
    let (rho, eps) = (arguments.number("rho", 0.9), arguments.number("eps", 1e-6));
    RuleBuilder::new("adadelta", &["square_avg", "acc_delta"], move |f| {
        let g = WeightDecay::L2.gradient(f);
        let v = lerp(f.moment(0), g * g, rho);
        let delta = (f.moment(1) + eps).sqrt() / (v + eps).sqrt() * g;
        next_state(f.weight() - f.lr() * delta, [v, lerp(f.moment(1), delta * delta, rho)])
    })
}
