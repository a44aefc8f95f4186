//! Rectified Adam (Liu et al., "On the variance of the adaptive learning rate and beyond", 2020): where the variance of the second moment
//! is not bounded yet, in the first few updates, steps follow the first moment alone.
use super::arguments::Arguments;
use super::terms::{Decay, Draft, correction, lerp, next};
use fornax_engine::fuse::{Formula, Value};

/// In PyTorch's form, which rectifies from a length of the average above 5.
pub(super) fn radam(arguments: &mut Arguments) -> Draft {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-8));
    let decoupled = arguments.flag("decoupled_weight_decay", false);
    let decay = if decoupled { Decay::Decoupled } else { Decay::Gradient };
    Draft::new("radam", &["exp_avg", "exp_avg_sq"], move |f| {
        let g = decay.gradient(f);
        let m = lerp(f.moment(0), g, beta1);
        let v = lerp(f.moment(1), g * g, beta2);
        let (length, rectification) = rectification(f, beta2);
        let rate = f.lr() / correction(f, beta1);
        let adapted = rate * rectification * correction(f, beta2).sqrt() * m / (v.sqrt() + eps);
        next(decay.weight(f) - length.greater(5.0).select(adapted, rate * m), [m, v])
    })
}

/// The length of the average that the second moment is, and what a step is multiplied by to make up for its variance.
pub(super) fn rectification(f: &Formula, beta2: f64) -> (Value<'_>, Value<'_>) {
    let longest = 2.0 / (1.0 - beta2) - 1.0;
    let correction = correction(f, beta2);
    let length = longest - 2.0 * f.step() * (1.0 - correction) / correction;
    let variance = (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length);
    (length, variance.sqrt())
}
