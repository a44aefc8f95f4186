//! Adam with Nesterov momentum (Dozat, "Incorporating Nesterov momentum into Adam", 2016).
use super::arguments::Arguments;
use super::terms::{Decay, Draft, cautious, correction, lerp, next};

/// With Dozat's schedule of the momentum, as PyTorch has it.
pub(super) fn nadam(arguments: &mut Arguments) -> Draft {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-8));
    let momentum_decay = arguments.number("momentum_decay", 4e-3);
    let decoupled = arguments.flag("decoupled_weight_decay", false);
    let decay = if decoupled { Decay::Decoupled } else { Decay::Gradient };
    let mut draft = Draft::new("nadam", &["exp_avg", "exp_avg_sq"], move |f| {
        let g = decay.gradient(f);
        let m = lerp(f.moment(0), g, beta1);
        let v = lerp(f.moment(1), g * g, beta2);
        let denominator = (v / correction(f, beta2)).sqrt() + eps;
        let momentum = |t| beta1 * (1.0 - 0.5 * f.constant(0.96).pow(t * momentum_decay));
        let (now, later) = (momentum(f.step()), momentum(f.step() + 1.0));
        let product = f.shared_scalar(0) * now;
        let of_gradient = f.lr() * (1.0 - now) / (1.0 - product);
        let of_moment = f.lr() * later / (1.0 - product * later);
        let weight = decay.weight(f) - of_gradient * g / denominator - of_moment * m / denominator;
        let mut next = next(weight, [m, v]);
        next.shared_scalars.push(product);
        next
    });
    draft.keeps.shared_scalars.push(("mu_product", 1.0));
    draft
}

/// AdamW with the first moment taken one step further.
pub(super) fn nadamw(arguments: &mut Arguments) -> Draft {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-8));
    let (decay, caution) = (Decay::decoupled(arguments), arguments.flag("caution", false));
    Draft::new("nadamw", &["exp_avg", "exp_avg_sq"], move |f| {
        let g = f.gradient();
        let m = lerp(f.moment(0), g, beta1);
        let v = lerp(f.moment(1), g * g, beta2);
        let denominator = v.sqrt() / correction(f, beta2).sqrt() + eps;
        let ahead = cautious(f, caution, lerp(m, g, beta1), g);
        next(decay.weight(f) - f.lr() / correction(f, beta1) * ahead / denominator, [m, v])
    })
}
