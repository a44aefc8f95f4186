//! LAMB (You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020).
//!
//! Gradients are clipped by their global norm to `max_grad_norm` (default 1), independently of `--clip-grad`.
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, bias_correction, lerp, next_state};

pub(super) fn lamb(arguments: &mut Arguments) -> RuleBuilder {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-6));
    let (corrects, averaged) =
        (arguments.flag("bias_correction", true), arguments.flag("grad_averaging", true));
    let max_grad_norm = arguments.optional("max_grad_norm", Some(1.0));
    let (trust_clip, always_adapt) =
        (arguments.flag("trust_clip", false), arguments.flag("always_adapt", false));
    let caution = arguments.flag("caution", false);
    let decay = WeightDecay::from_flag(arguments, "decoupled_decay", false);
    RuleBuilder::new("lamb", &["exp_avg", "exp_avg_sq"], move |f| {
        let g = match max_grad_norm {
            Some(limit) => f.gradient() / (f.grad_norm() / limit).max(1.0),
            None => f.gradient(),
        };
        let m = beta1 * f.moment(0) + if averaged { (1.0 - beta1) * g } else { g };
        let v = lerp(f.moment(1), g * g, beta2);
        let corrected = |beta| if corrects { bias_correction(f, beta) } else { f.constant(1.0) };
        let mut u = m / corrected(beta1) / (v.sqrt() / corrected(beta2).sqrt() + eps);
        let mut scale = f.constant(1.0);
        if caution {
            let agrees = (u * g).greater(0.0);
            u = u * agrees;
            scale = 1.0 / f.mean(agrees).max(1e-3);
        }
        let p = decay.decayed_weight(f);
        let decays = if decay == WeightDecay::L2 { f.weight_decay() } else { f.constant(0.0) };
        let step = scale * u + decays * f.weight();
        // The squared norm of the step, from sums that do not depend on the scale.
        let squares = match caution {
            false => f.sum(step * step),
            true => {
                let (own, mixed, of_weight) = (f.sum(u * u), f.sum(u * p), f.sum(f.weight() * f.weight()));
                scale * scale * own + 2.0 * scale * decays * mixed + decays * decays * of_weight
            }
        };
        let (of_weight, of_step) = (f.sum(p * p).sqrt(), squares.sqrt());
        let mut trust = (of_weight.greater(0.0) * of_step.greater(0.0)).select(of_weight / of_step, 1.0);
        if trust_clip {
            trust = trust.min(1.0);
        }
        if !always_adapt {
            trust = f.weight_decay().equal(0.0).select(1.0, trust);
        }
        next_state(p - f.lr() * trust * step, [m, v])
    })
}
