//! Stochastic gradient descent with momentum (Sutskever et al., "On the importance of initialization and momentum in deep learning",
//! 2013) in PyTorch's form, where the learning rate stays outside of the buffer.
use super::arguments::Arguments;
use super::terms::{Decay, Draft, cautious, is_first, next};
use fornax_engine::fuse::CpuLoop;

/// With weight decay as a part of the gradient.
pub(super) fn sgd(arguments: &mut Arguments) -> Draft {
    momentum("sgd", arguments, |_| Decay::Gradient, |_| false)
}

/// With decoupled weight decay (Loshchilov and Hutter, 2019).
pub(super) fn sgdw(arguments: &mut Arguments) -> Draft {
    momentum("sgdw", arguments, Decay::decoupled, |arguments| arguments.flag("caution", false))
}

fn momentum(
    name: &'static str,
    arguments: &mut Arguments,
    decay: impl Fn(&mut Arguments) -> Decay,
    caution: impl Fn(&mut Arguments) -> bool,
) -> Draft {
    let (momentum, dampening) = (arguments.number("momentum", 0.9), arguments.number("dampening", 0.0));
    let nesterov = arguments.flag("nesterov", false);
    let (decay, caution) = (decay(arguments), caution(arguments));
    if momentum == 0.0 {
        return Draft::new(name, &[], move |f| next(decay.weight(f) - f.lr() * decay.gradient(f), []));
    }
    let mut draft = Draft::new(name, &["momentum_buffer"], move |f| {
        let g = decay.gradient(f);
        let mut b = momentum * f.moment(0) + (1.0 - dampening) * g;
        if dampening != 0.0 {
            b = is_first(f).select(g, b);
        }
        let step = if nesterov { g + momentum * b } else { b };
        next(decay.weight(f) - f.lr() * cautious(f, caution, step, g), [b])
    });
    let plain = decay == Decay::Gradient && dampening == 0.0;
    draft.cpu_loop = plain.then_some(CpuLoop::Sgd { momentum, nesterov });
    draft
}
