//! Adafactor (Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost", 2018) with the given learning rate: the
//! second moment of large parameters is factored into its means over two axes.
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, cautious, lerp, next_state};
use fornax_engine::fuse::Factoring;

pub(super) fn adafactor(arguments: &mut Arguments) -> RuleBuilder {
    let (eps, clip) = (arguments.number("eps", 1e-30), arguments.number("clip_threshold", 1.0));
    let decay_rate = arguments.number("decay_rate", -0.8);
    let min_dim_size_to_factor = arguments.number("min_dim_size_to_factor", 16.0) as usize;
    let beta1 = arguments.optional_betas::<2>().map(|[beta1, _]| beta1);
    let caution = arguments.flag("caution", false);
    let names = ["exp_avg_sq", "exp_avg"];
    let mut builder =
        RuleBuilder::new("adafactor", &names[..if beta1.is_some() { 2 } else { 1 }], move |f| {
            let g = f.gradient();
            let weight = f.step().pow(decay_rate);
            let full = f.moment(0) + weight * (g * g + eps - f.moment(0));
            let u = g * f.is_factored().select(f.factored(), full).rsqrt();
            let rms = f.mean(u * u).sqrt();
            let step = f.lr() * u / (rms / clip).max(1.0);
            let p = WeightDecay::Decoupled.decayed_weight(f);
            match beta1 {
                None => next_state(p - step, [full]),
                Some(beta1) => {
                    let m = lerp(f.moment(1), step, beta1);
                    next_state(p - cautious(f, caution, m, g), [full, m])
                }
            }
        });
    builder.state_spec.factored = Some(Factoring { decay_rate, eps, min_dim_size_to_factor });
    builder
}
