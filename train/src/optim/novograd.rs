//! NovoGrad (Ginsburg et al., "Stochastic gradient methods with layer-wise adaptive moments for training of deep networks", 2019): the
//! second moment is one scalar per parameter tensor.
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, lerp, next_state};

pub(super) fn novograd(arguments: &mut Arguments) -> RuleBuilder {
    let ([beta1, beta2], eps) = (arguments.betas([0.95, 0.98]), arguments.number("eps", 1e-8));
    let averaged = arguments.flag("grad_averaging", false);
    let decay = WeightDecay::from_flag(arguments, "decoupled_decay", false);
    let mut builder = RuleBuilder::new("novograd", &["exp_avg"], move |f| {
        let squares = f.sum(f.gradient() * f.gradient());
        let v = f.param_scalar().equal(0.0).select(squares, lerp(f.param_scalar(), squares, beta2));
        let mut g = f.gradient() / (v.sqrt() + eps);
        if decay == WeightDecay::L2 {
            g = g + f.weight_decay() * f.weight();
        }
        let m = beta1 * f.moment(0) + if averaged { (1.0 - beta1) * g } else { g };
        let mut next = next_state(decay.decayed_weight(f) - f.lr() * m, [m]);
        next.param_scalar = Some(v);
        next
    });
    builder.state_spec.param_scalar = Some("exp_avg_sq");
    builder
}
