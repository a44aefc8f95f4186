//! Rectified Adam (Liu et al., "On the variance of the adaptive learning rate and beyond", 2020): in the first few updates, while the
//! variance of the second moment is unbounded, steps use the first moment alone.
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, bias_correction, lerp, next_state};
use fornax_engine::fuse::{Formula, Value};

/// RAdam in PyTorch's form, which rectifies when the length of the simple moving average exceeds 5.
pub(super) fn radam(arguments: &mut Arguments) -> RuleBuilder {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-8));
    let decoupled = arguments.flag("decoupled_weight_decay", false);
    let decay = if decoupled { WeightDecay::Decoupled } else { WeightDecay::L2 };
    RuleBuilder::new("radam", &["exp_avg", "exp_avg_sq"], move |f| {
        let g = decay.gradient(f);
        let m = lerp(f.moment(0), g, beta1);
        let v = lerp(f.moment(1), g * g, beta2);
        let (length, rectification) = rectification(f, beta2);
        let lr = f.lr() / bias_correction(f, beta1);
        let adapted = lr * rectification * bias_correction(f, beta2).sqrt() * m / (v.sqrt() + eps);
        next_state(decay.decayed_weight(f) - length.greater(5.0).select(adapted, lr * m), [m, v])
    })
}

/// Length of the approximated simple moving average `rho_t`, and the rectification `r_t` of the step.
pub(super) fn rectification(f: &Formula, beta2: f64) -> (Value<'_>, Value<'_>) {
    let longest = 2.0 / (1.0 - beta2) - 1.0;
    let correction = bias_correction(f, beta2);
    let length = longest - 2.0 * f.step() * (1.0 - correction) / correction;
    let variance = (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length);
    (length, variance.sqrt())
}
