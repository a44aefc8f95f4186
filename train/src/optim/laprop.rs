//! LaProp (Ziyin et al., "LaProp: separating momentum and adaptivity in Adam", 2020).
use super::arguments::Arguments;
use super::terms::{Decay, Draft, cautious, correction, lerp, next};

pub(super) fn laprop(arguments: &mut Arguments) -> Draft {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-15));
    let (decay, caution) = (Decay::decoupled(arguments), arguments.flag("caution", false));
    let mut draft = Draft::new("laprop", &["exp_avg", "exp_avg_sq"], move |f| {
        let g = f.gradient();
        let v = lerp(f.moment(1), g * g, beta2);
        let denominator = (v / correction(f, beta2)).sqrt() + eps;
        let m = beta1 * f.moment(0) + f.lr() * (1.0 - beta1) * g / denominator;
        // The first moment holds rates: its bias is that of an average of them.
        let rate = lerp(f.shared_scalar(0), f.base_lr(), beta1);
        let unbiased = rate.equal(0.0).select(0.0, f.base_lr() / rate);
        let weight = (f.weight() - unbiased * cautious(f, caution, m, g)) * decay.keep(f);
        let mut next = next(weight, [m, v]);
        next.shared_scalars.push(rate);
        next
    });
    draft.keeps.shared_scalars.push(("exp_avg_lr_1", 0.0));
    draft
}
