//! Adadelta (Zeiler, "ADADELTA: an adaptive learning rate method", 2012).
use super::arguments::Arguments;
use super::terms::{Decay, Draft, lerp, next};

pub(super) fn adadelta(arguments: &mut Arguments) -> Draft {
    let (rho, eps) = (arguments.number("rho", 0.9), arguments.number("eps", 1e-6));
    Draft::new("adadelta", &["square_avg", "acc_delta"], move |f| {
        let g = Decay::Gradient.gradient(f);
        let v = lerp(f.moment(0), g * g, rho);
        let delta = (f.moment(1) + eps).sqrt() / (v + eps).sqrt() * g;
        next(f.weight() - f.lr() * delta, [v, lerp(f.moment(1), delta * delta, rho)])
    })
}
