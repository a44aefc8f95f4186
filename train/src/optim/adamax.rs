//! Adamax (Kingma and Ba, "Adam", 2015): Adam with the infinity norm of past gradients in place of the second moment.
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, bias_correction, lerp, next_state};

pub(super) fn adamax(arguments: &mut Arguments) -> RuleBuilder {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-8));
    RuleBuilder::new("adamax", &["exp_avg", "exp_inf"], move |f| {
        let g = WeightDecay::L2.gradient(f);
        let m = lerp(f.moment(0), g, beta1);
        let largest = (beta2 * f.moment(1)).max(g.abs() + eps);
        next_state(f.weight() - f.lr() / bias_correction(f, beta1) * m / largest, [m, largest])
    })
}
