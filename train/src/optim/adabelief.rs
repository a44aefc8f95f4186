//! AdaBelief (Zhuang et al., "AdaBelief optimizer: adapting stepsizes by the belief in observed gradients", 2020), optionally rectified as
//! in RAdam.
use super::arguments::Arguments;
use super::radam::rectification;
use super::terms::{RuleBuilder, WeightDecay, bias_correction, lerp, next_state};

pub(super) fn adabelief(arguments: &mut Arguments) -> RuleBuilder {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-16));
    let (amsgrad, rectify) = (arguments.flag("amsgrad", false), arguments.flag("rectify", true));
    let degenerated_to_sgd = arguments.flag("degenerated_to_sgd", true);
    let (decoupled, fixed) = (arguments.flag("decoupled_decay", true), arguments.flag("fixed_decay", false));
    let decay = if decoupled { WeightDecay::Decoupled } else { WeightDecay::L2 };
    let names = ["exp_avg", "exp_avg_var", "max_exp_avg_var"];
    let count = if amsgrad { 3 } else { 2 };
    RuleBuilder::new("adabelief", &names[..count], move |f| {
        let g = decay.gradient(f);
        let m = lerp(f.moment(0), g, beta1);
        let surprise = g - m;
        // As in the published code, eps stays in the moment.
        let v = lerp(f.moment(1), surprise * surprise, beta2) + eps;
        let largest = if amsgrad { f.moment(2).max(v) } else { v };
        let lr = f.lr() / bias_correction(f, beta1);
        let step = if rectify {
            let (length, rectification) = rectification(f, beta2);
            let adapted = lr * rectification * bias_correction(f, beta2).sqrt() * m / (v.sqrt() + eps);
            let plain = if degenerated_to_sgd { lr * m } else { f.constant(0.0) };
            length.less(5.0).select(plain, adapted)
        } else {
            lr * m / (largest.sqrt() / bias_correction(f, beta2).sqrt() + eps)
        };
        let keep = if decoupled && fixed { 1.0 - f.weight_decay() } else { decay.factor(f) };
        next_state(f.weight() * keep - step, &[m, v, largest][..count])
    })
}
