//! Adam with Nesterov momentum (Dozat, "Incorporating Nesterov momentum into Adam", 2016).
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, bias_correction, cautious, lerp, next_state};

/// NAdam with Dozat's momentum schedule, as in PyTorch.
pub(super) fn nadam(arguments: &mut Arguments) -> RuleBuilder {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-8));
    let momentum_decay = arguments.number("momentum_decay", 4e-3);
    let decoupled = arguments.flag("decoupled_weight_decay", false);
    let decay = if decoupled { WeightDecay::Decoupled } else { WeightDecay::L2 };
    let mut builder = RuleBuilder::new("nadam", &["exp_avg", "exp_avg_sq"], move |f| {
        let g = decay.gradient(f);
        let m = lerp(f.moment(0), g, beta1);
        let v = lerp(f.moment(1), g * g, beta2);
        let denominator = (v / bias_correction(f, beta2)).sqrt() + eps;
        let momentum = |t| beta1 * (1.0 - 0.5 * f.constant(0.96).pow(t * momentum_decay));
        let (now, later) = (momentum(f.step()), momentum(f.step() + 1.0));
        let product = f.shared_scalar(0) * now;
        let of_gradient = f.lr() * (1.0 - now) / (1.0 - product);
        let of_moment = f.lr() * later / (1.0 - product * later);
        let weight = decay.decayed_weight(f) - of_gradient * g / denominator - of_moment * m / denominator;
        let mut next = next_state(weight, [m, v]);
        next.shared_scalars.push(product);
        next
    });
    builder.state_spec.shared_scalars.push(("mu_product", 1.0));
    builder
}

/// NAdamW as in timm: AdamW with a Nesterov look-ahead of the first moment.
pub(super) fn nadamw(arguments: &mut Arguments) -> RuleBuilder {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-8));
    let (decay, caution) = (WeightDecay::decoupled(arguments), arguments.flag("caution", false));
    RuleBuilder::new("nadamw", &["exp_avg", "exp_avg_sq"], move |f| {
        let g = f.gradient();
        let m = lerp(f.moment(0), g, beta1);
        let v = lerp(f.moment(1), g * g, beta2);
        let denominator = v.sqrt() / bias_correction(f, beta2).sqrt() + eps;
        let ahead = cautious(f, caution, lerp(m, g, beta1), g);
        next_state(decay.decayed_weight(f) - f.lr() / bias_correction(f, beta1) * ahead / denominator, [m, v])
    })
}
