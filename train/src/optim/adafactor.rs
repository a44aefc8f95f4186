//! Adafactor (Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost", 2018) at given learning rates: the second
//! moment of large parameters is kept as its means over two axes.
use super::arguments::Arguments;
use super::terms::{Decay, Draft, cautious, lerp, next};
use fornax_engine::fuse::Factoring;

pub(super) fn adafactor(arguments: &mut Arguments) -> Draft {
    let (eps, clip) = (arguments.number("eps", 1e-30), arguments.number("clip_threshold", 1.0));
    let decay_rate = arguments.number("decay_rate", -0.8);
    let above = arguments.number("min_dim_size_to_factor", 16.0) as usize;
    let beta1 = arguments.optional_betas::<2>().map(|[beta1, _]| beta1);
    let caution = arguments.flag("caution", false);
    let names = ["exp_avg_sq", "exp_avg"];
    let mut draft = Draft::new("adafactor", &names[..if beta1.is_some() { 2 } else { 1 }], move |f| {
        let g = f.gradient();
        let share = f.step().pow(decay_rate);
        let full = f.moment(0) + share * (g * g + eps - f.moment(0));
        let u = g * f.is_factored().select(f.factored(), full).rsqrt();
        let rms = f.mean(u * u).sqrt();
        let step = f.lr() * u / (rms / clip).max(1.0);
        let p = Decay::Decoupled.weight(f);
        match beta1 {
            None => next(p - step, [full]),
            Some(beta1) => {
                let m = lerp(f.moment(1), step, beta1);
                next(p - cautious(f, caution, m, g), [full, m])
            }
        }
    });
    draft.keeps.factored = Some(Factoring { decay_rate, eps, min_dim_size_to_factor: above });
    draft
}
