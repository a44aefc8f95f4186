//! NovoGrad (Ginsburg et al., "Stochastic gradient methods with layer-wise adaptive moments for training of deep networks", 2019): the
//! second moment is one number a parameter.
use super::arguments::Arguments;
use super::terms::{Decay, Draft, lerp, next};

pub(super) fn novograd(arguments: &mut Arguments) -> Draft {
    let ([beta1, beta2], eps) = (arguments.betas([0.95, 0.98]), arguments.number("eps", 1e-8));
    let averaged = arguments.flag("grad_averaging", false);
    let decay = Decay::named(arguments, "decoupled_decay", false);
    let mut draft = Draft::new("novograd", &["exp_avg"], move |f| {
        let squares = f.sum(f.gradient() * f.gradient());
        let v = f.param_scalar().equal(0.0).select(squares, lerp(f.param_scalar(), squares, beta2));
        let mut g = f.gradient() / (v.sqrt() + eps);
        if decay == Decay::Gradient {
            g = g + f.weight_decay() * f.weight();
        }
        let m = beta1 * f.moment(0) + if averaged { (1.0 - beta1) * g } else { g };
        let mut next = next(decay.weight(f) - f.lr() * m, [m]);
        next.param_scalar = Some(v);
        next
    });
    draft.keeps.param_scalar = Some("exp_avg_sq");
    draft
}
