//! LaProp (Ziyin et al., "LaProp: separating momentum and adaptivity in Adam", 2020).
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, bias_correction, cautious, lerp, next_state};

pub(super) fn laprop(arguments: &mut Arguments) -> RuleBuilder {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-15));
    let (decay, caution) = (WeightDecay::decoupled(arguments), arguments.flag("caution", false));
    let mut builder = RuleBuilder::new("laprop", &["exp_avg", "exp_avg_sq"], move |f| {
        let g = f.gradient();
        let v = lerp(f.moment(1), g * g, beta2);
        let denominator = (v / bias_correction(f, beta2)).sqrt() + eps;
        let m = beta1 * f.moment(0) + f.lr() * (1.0 - beta1) * g / denominator;
        // The first moment includes the learning rate: its bias is the bias of an average of learning rates.
        let lr_average = lerp(f.shared_scalar(0), f.base_lr(), beta1);
        let unbiased = lr_average.equal(0.0).select(0.0, f.base_lr() / lr_average);
        let weight = (f.weight() - unbiased * cautious(f, caution, m, g)) * decay.factor(f);
        let mut next = next_state(weight, [m, v]);
        next.shared_scalars.push(lr_average);
        next
    });
    builder.state_spec.shared_scalars.push(("exp_avg_lr_1", 0.0));
    builder
}
