//! RMSprop (Hinton, lecture 6.5 of "Neural networks for machine learning", 2012), as PyTorch and as TensorFlow 1 have it.
use super::arguments::Arguments;
use super::terms::{Decay, Draft, cautious, lerp, next};

/// PyTorch's: `eps` beside the root.
pub(super) fn rmsprop(arguments: &mut Arguments) -> Draft {
    let kind = Kind { name: "rmsprop", tensorflow: false, lr_in_momentum: false, caution: false };
    let eps = arguments.number("eps", 1e-8);
    kind.draft(arguments, eps, Decay::Gradient)
}

/// TensorFlow's: `eps` within the root, the average of squares begins with 1, and the buffer holds steps at the rates of their time.
pub(super) fn rmsprop_tf(arguments: &mut Arguments) -> Draft {
    let decay = Decay::named(arguments, "decoupled_decay", false);
    let (lr_in_momentum, caution) =
        (arguments.flag("lr_in_momentum", true), arguments.flag("caution", false));
    let kind = Kind { name: "rmsproptf", tensorflow: true, lr_in_momentum, caution };
    let eps = arguments.number("eps", 1e-10);
    let mut draft = kind.draft(arguments, eps, decay);
    draft.keeps.moments[0].1 = 1.0;
    draft
}

struct Kind {
    name: &'static str,
    tensorflow: bool,
    lr_in_momentum: bool,
    caution: bool,
}

impl Kind {
    fn draft(self, arguments: &mut Arguments, eps: f64, decay: Decay) -> Draft {
        let (alpha, momentum) = (arguments.number("alpha", 0.99), arguments.number("momentum", 0.9));
        let centered = arguments.flag("centered", false);
        let mut names = vec!["square_avg"];
        names.extend(centered.then_some("grad_avg"));
        names.extend((momentum > 0.0).then_some("momentum_buffer"));
        Draft::new(self.name, &names, move |f| {
            let g = decay.gradient(f);
            let v = lerp(f.moment(0), g * g, alpha);
            let mut moments = vec![v];
            let mut variance = v;
            if centered {
                let mean = lerp(f.moment(1), g, alpha);
                moments.push(mean);
                variance = v - mean * mean;
            }
            let root = if self.tensorflow { (variance + eps).sqrt() } else { variance.sqrt() + eps };
            let mut step = f.lr() * g / root;
            if momentum > 0.0 {
                let before = momentum * f.moment(moments.len());
                let buffer = if self.lr_in_momentum { before + step } else { before + g / root };
                moments.push(buffer);
                let caught = cautious(f, self.caution, buffer, g);
                step = if self.lr_in_momentum { caught } else { f.lr() * caught };
            }
            next(decay.weight(f) - step, moments)
        })
    }
}
