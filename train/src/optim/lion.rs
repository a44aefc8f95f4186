//! Lion (Chen et al., "Symbolic discovery of optimization algorithms", 2023).
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, cautious, lerp, next_state};

pub(super) fn lion(arguments: &mut Arguments) -> RuleBuilder {
    let [beta1, beta2] = arguments.betas([0.9, 0.99]);
    let (decay, caution) = (WeightDecay::decoupled(arguments), arguments.flag("caution", false));
    RuleBuilder::new("lion", &["exp_avg"], move |f| {
        let g = f.gradient();
        let ahead = lerp(f.moment(0), g, beta1);
        let sign = ahead.greater(0.0) - ahead.less(0.0);
        next_state(
            decay.decayed_weight(f) - f.lr() * cautious(f, caution, sign, g),
            [lerp(f.moment(0), g, beta2)],
        )
    })
}
