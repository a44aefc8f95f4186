//! LARS (You et al., "Large batch training of convolutional networks", 2017), and LARC, which clips the adapted learning rate at the
//! given one.
use super::arguments::Arguments;
use super::terms::{RuleBuilder, is_first, next_state};

pub(super) fn lars(arguments: &mut Arguments) -> RuleBuilder {
    let (momentum, dampening) = (arguments.number("momentum", 0.9), arguments.number("dampening", 0.0));
    let (nesterov, eps) = (arguments.flag("nesterov", false), arguments.number("eps", 1e-8));
    let trust_coeff = arguments.number("trust_coeff", 0.001);
    let (trust_clip, always_adapt) =
        (arguments.flag("trust_clip", false), arguments.flag("always_adapt", false));
    RuleBuilder::new("lars", if momentum == 0.0 { &[] } else { &["momentum_buffer"] }, move |f| {
        let (p, g) = (f.weight(), f.gradient());
        let (of_weight, of_gradient) = (f.sum(p * p).sqrt(), f.sum(g * g).sqrt());
        let ratio = trust_coeff * of_weight / (of_gradient + of_weight * f.weight_decay() + eps);
        let both = of_weight.greater(0.0) * of_gradient.greater(0.0);
        let mut trust = both.select(ratio, 1.0);
        if trust_clip {
            trust = (trust / f.lr()).min(1.0);
        }
        if !always_adapt {
            trust = f.weight_decay().equal(0.0).select(1.0, trust);
        }
        let g = trust * (g + f.weight_decay() * p);
        if momentum == 0.0 {
            return next_state(p - f.lr() * g, []);
        }
        let b = is_first(f).select(g, momentum * f.moment(0) + (1.0 - dampening) * g);
        next_state(p - f.lr() * if nesterov { g + momentum * b } else { b }, [b])
    })
}
