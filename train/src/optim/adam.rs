//! Adam (Kingma and Ba, 2015) and AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019), with AMSGrad (Reddi et al.,
//! 2018).
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, bias_correction, cautious, lerp, next_state};
use fornax_engine::fuse::CpuLoop;

/// Adam with L2 weight decay, or decoupled with `decoupled_weight_decay`.
pub(super) fn adam(arguments: &mut Arguments) -> RuleBuilder {
    let decoupled = arguments.flag("decoupled_weight_decay", false);
    moments("adam", arguments, if decoupled { WeightDecay::Decoupled } else { WeightDecay::L2 }, false)
}

/// AdamW: decoupled weight decay.
pub(super) fn adamw(arguments: &mut Arguments) -> RuleBuilder {
    let decay = WeightDecay::decoupled(arguments);
    let caution = arguments.flag("caution", false);
    moments("adamw", arguments, decay, caution)
}

fn moments(name: &'static str, arguments: &mut Arguments, decay: WeightDecay, caution: bool) -> RuleBuilder {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-8));
    let amsgrad = arguments.flag("amsgrad", false);
    let names = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"];
    let mut builder = RuleBuilder::new(name, &names[..if amsgrad { 3 } else { 2 }], move |f| {
        let g = decay.gradient(f);
        let m = lerp(f.moment(0), g, beta1);
        let v = lerp(f.moment(1), g * g, beta2);
        let largest = if amsgrad { f.moment(2).max(v) } else { v };
        let denominator = largest.sqrt() / bias_correction(f, beta2).sqrt() + eps;
        let step = f.lr() / bias_correction(f, beta1) * cautious(f, caution, m, g) / denominator;
        let moments = [m, v, largest];
        next_state(decay.decayed_weight(f) - step, &moments[..if amsgrad { 3 } else { 2 }])
    });
    let plain = decay == WeightDecay::Decoupled && !amsgrad && !caution;
    builder.cpu_loop = plain.then_some(CpuLoop::AdamW { betas: [beta1, beta2], eps });
    builder
}
