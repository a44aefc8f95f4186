//! RMSprop (Hinton, lecture 6.5 of "Neural networks for machine learning", 2012) in the forms of PyTorch and TensorFlow 1.
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, cautious, lerp, next_state};

/// PyTorch's form: `eps` outside of the square root.
pub(super) fn rmsprop(arguments: &mut Arguments) -> RuleBuilder {
    let variant = Variant { name: "rmsprop", tensorflow: false, lr_in_momentum: false, caution: false };
    let eps = arguments.number("eps", 1e-8);
    variant.rule(arguments, eps, WeightDecay::L2)
}

/// TensorFlow's form: `eps` inside the square root, the average of squares starts at 1, and the momentum buffer includes the learning rate.
pub(super) fn rmsprop_tf(arguments: &mut Arguments) -> RuleBuilder {
    let decay = WeightDecay::from_flag(arguments, "decoupled_decay", false);
    let (lr_in_momentum, caution) =
        (arguments.flag("lr_in_momentum", true), arguments.flag("caution", false));
    let variant = Variant { name: "rmsproptf", tensorflow: true, lr_in_momentum, caution };
    let eps = arguments.number("eps", 1e-10);
    let mut builder = variant.rule(arguments, eps, decay);
    builder.state_spec.moments[0].1 = 1.0;
    builder
}

struct Variant {
    name: &'static str,
    tensorflow: bool,
    lr_in_momentum: bool,
    caution: bool,
}

impl Variant {
    fn rule(self, arguments: &mut Arguments, eps: f64, decay: WeightDecay) -> RuleBuilder {
        let (alpha, momentum) = (arguments.number("alpha", 0.99), arguments.number("momentum", 0.9));
        let centered = arguments.flag("centered", false);
        let mut names = vec!["square_avg"];
        names.extend(centered.then_some("grad_avg"));
        names.extend((momentum > 0.0).then_some("momentum_buffer"));
        RuleBuilder::new(self.name, &names, move |f| {
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
                let direction = cautious(f, self.caution, buffer, g);
                step = if self.lr_in_momentum { direction } else { f.lr() * direction };
            }
            next_state(decay.decayed_weight(f) - step, moments)
        })
    }
}
