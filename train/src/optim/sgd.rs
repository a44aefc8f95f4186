//! Stochastic gradient descent with momentum (Sutskever et al., "On the importance of initialization and momentum in deep learning",
//! 2013) in PyTorch's form, with the learning rate outside of the momentum buffer.
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, cautious, is_first, next_state};
use fornax_engine::fuse::CpuLoop;

/// SGD with L2 weight decay.
pub(super) fn sgd(arguments: &mut Arguments) -> RuleBuilder {
    momentum("sgd", arguments, |_| WeightDecay::L2, |_| false)
}

/// SGD with decoupled weight decay (Loshchilov and Hutter, 2019).
pub(super) fn sgdw(arguments: &mut Arguments) -> RuleBuilder {
    momentum("sgdw", arguments, WeightDecay::decoupled, |arguments| arguments.flag("caution", false))
}

fn momentum(
    name: &'static str,
    arguments: &mut Arguments,
    decay: impl Fn(&mut Arguments) -> WeightDecay,
    caution: impl Fn(&mut Arguments) -> bool,
) -> RuleBuilder {
    let (momentum, dampening) = (arguments.number("momentum", 0.9), arguments.number("dampening", 0.0));
    let nesterov = arguments.flag("nesterov", false);
    let (decay, caution) = (decay(arguments), caution(arguments));
    if momentum == 0.0 {
        return RuleBuilder::new(name, &[], move |f| {
            next_state(decay.decayed_weight(f) - f.lr() * decay.gradient(f), [])
        });
    }
    let mut builder = RuleBuilder::new(name, &["momentum_buffer"], move |f| {
        let g = decay.gradient(f);
        let mut b = momentum * f.moment(0) + (1.0 - dampening) * g;
        if dampening != 0.0 {
            b = is_first(f).select(g, b);
        }
        let step = if nesterov { g + momentum * b } else { b };
        next_state(decay.decayed_weight(f) - f.lr() * cautious(f, caution, step, g), [b])
    });
    let plain = decay == WeightDecay::L2 && dampening == 0.0;
    builder.cpu_loop = plain.then_some(CpuLoop::Sgd { momentum, nesterov });
    builder
}
