//! Adamax (Kingma and Ba, "Adam", 2015): Adam with the largest gradient in place of the second moment.
use super::arguments::Arguments;
use super::terms::{Decay, Draft, correction, lerp, next};

pub(super) fn adamax(arguments: &mut Arguments) -> Draft {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-8));
    Draft::new("adamax", &["exp_avg", "exp_inf"], move |f| {
        let g = Decay::Gradient.gradient(f);
        let m = lerp(f.moment(0), g, beta1);
        let largest = (beta2 * f.moment(1)).max(g.abs() + eps);
        next(f.weight() - f.lr() / correction(f, beta1) * m / largest, [m, largest])
    })
}
