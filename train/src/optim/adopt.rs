//! ADOPT (Taniguchi et al., "ADOPT: modified Adam can converge with any beta2 with the optimal rate", 2024): gradients are normalised by
//! the second moment of the previous gradients. The first update only initialises the second moment.
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, cautious, is_first, lerp, next_state};

pub(super) fn adopt(arguments: &mut Arguments) -> RuleBuilder {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.9999]), arguments.number("eps", 1e-6));
    let clip = arguments.optional("clip_exp", Some(0.333));
    let decay = WeightDecay::from_flag(arguments, "decoupled", false);
    let caution = arguments.flag("caution", false);
    RuleBuilder::new("adopt", &["exp_avg", "exp_avg_sq"], move |f| {
        let (g, first) = (decay.gradient(f), is_first(f));
        let mut normed = g / f.moment(1).sqrt().max(eps);
        if let Some(exponent) = clip {
            let limit = (f.step() - 1.0).pow(exponent);
            normed = normed.min(limit).max(-limit);
        }
        let m = lerp(f.moment(0), normed, beta1);
        let weight = decay.decayed_weight(f) - f.lr() * cautious(f, caution, m, g);
        let v = first.select(f.moment(1) + g * g, lerp(f.moment(1), g * g, beta2));
        next_state(first.select(f.weight(), weight), [first.select(f.moment(0), m), v])
    })
}
