//! Adan (Xie et al., "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models", 2022).
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, bias_correction, cautious, is_first, lerp, next_state};

pub(super) fn adan(arguments: &mut Arguments) -> RuleBuilder {
    let ([beta1, beta2, beta3], eps) = (arguments.betas([0.98, 0.92, 0.99]), arguments.number("eps", 1e-8));
    let (no_prox, caution) = (arguments.flag("no_prox", false), arguments.flag("caution", false));
    let moments = ["exp_avg", "exp_avg_sq", "exp_avg_diff", "neg_pre_grad"];
    RuleBuilder::new("adan", &moments, move |f| {
        let g = f.gradient();
        let difference = is_first(f).select(0.0, f.moment(3) + g);
        let m = lerp(f.moment(0), g, beta1);
        let d = lerp(f.moment(2), difference, beta2);
        let ahead = g + beta2 * difference;
        let v = lerp(f.moment(1), ahead * ahead, beta3);
        let denominator = v.sqrt() / bias_correction(f, beta3).sqrt() + eps;
        let of_moment = f.lr() / bias_correction(f, beta1) * cautious(f, caution, m, g);
        let step = (of_moment + f.lr() * beta2 / bias_correction(f, beta2) * d) / denominator;
        let weight = match no_prox {
            true => WeightDecay::Decoupled.decayed_weight(f) - step,
            false => (f.weight() - step) / (1.0 + f.lr() * f.weight_decay()),
        };
        next_state(weight, [m, v, d, -g])
    })
}
