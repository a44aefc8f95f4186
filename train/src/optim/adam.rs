//! Adam (Kingma and Ba, 2015) and AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019), with AMSGrad (Reddi et al.,
//! 2018).
use super::arguments::Arguments;
use super::terms::{Decay, Draft, cautious, correction, lerp, next};
use fornax_engine::fuse::CpuLoop;

/// With weight decay as a part of the gradient, unless `decoupled_weight_decay` says otherwise.
pub(super) fn adam(arguments: &mut Arguments) -> Draft {
    let decoupled = arguments.flag("decoupled_weight_decay", false);
    moments("adam", arguments, if decoupled { Decay::Decoupled } else { Decay::Gradient }, false)
}

/// With decoupled weight decay.
pub(super) fn adamw(arguments: &mut Arguments) -> Draft {
    let decay = Decay::decoupled(arguments);
    let caution = arguments.flag("caution", false);
    moments("adamw", arguments, decay, caution)
}

fn moments(name: &'static str, arguments: &mut Arguments, decay: Decay, caution: bool) -> Draft {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-8));
    let amsgrad = arguments.flag("amsgrad", false);
    let names = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"];
    let mut draft = Draft::new(name, &names[..if amsgrad { 3 } else { 2 }], move |f| {
        let g = decay.gradient(f);
        let m = lerp(f.moment(0), g, beta1);
        let v = lerp(f.moment(1), g * g, beta2);
        let largest = if amsgrad { f.moment(2).max(v) } else { v };
        let denominator = largest.sqrt() / correction(f, beta2).sqrt() + eps;
        let step = f.lr() / correction(f, beta1) * cautious(f, caution, m, g) / denominator;
        let moments = [m, v, largest];
        next(decay.weight(f) - step, &moments[..if amsgrad { 3 } else { 2 }])
    });
    let plain = decay == Decay::Decoupled && !amsgrad && !caution;
    draft.cpu_loop = plain.then_some(CpuLoop::AdamW { betas: [beta1, beta2], eps });
    draft
}
