//! Lion (Chen et al., "Symbolic discovery of optimization algorithms", 2023).
use super::arguments::Arguments;
use super::terms::{Decay, Draft, cautious, lerp, next};

pub(super) fn lion(arguments: &mut Arguments) -> Draft {
    let [beta1, beta2] = arguments.betas([0.9, 0.99]);
    let (decay, caution) = (Decay::decoupled(arguments), arguments.flag("caution", false));
    Draft::new("lion", &["exp_avg"], move |f| {
        let g = f.gradient();
        let ahead = lerp(f.moment(0), g, beta1);
        let sign = ahead.greater(0.0) - ahead.less(0.0);
        next(decay.weight(f) - f.lr() * cautious(f, caution, sign, g), [lerp(f.moment(0), g, beta2)])
    })
}
