//! Lion (Chen et al., "Symbolic discovery of optimization algorithms", 2023).
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, cautious, lerp, next_state};

pub(super) fn lion(arguments: &mut Arguments) -> RuleBuilder {
    let [beta1, beta2] = arguments.betas([0.9, 0.99]); // read here, hence accepted by --opt-betas and --opt-kwargs
    let (decay, caution) = (WeightDecay::decoupled(arguments), arguments.flag("caution", false));
    RuleBuilder::new("lion", &["exp_avg"], move |f| {
        let g = f.gradient(); // unscaled and clipped
        let ahead = lerp(f.moment(0), g, beta1);
        let sign = ahead.greater(0.0) - ahead.less(0.0);
        next_state(
            decay.decayed_weight(f) - f.lr() * cautious(f, caution, sign, g),
            [lerp(f.moment(0), g, beta2)],
        )
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn guide_shows_this_formula() {
        let (guide, source) = (include_str!("../../../docs/kernels.md"), include_str!("lion.rs"));
        let start = source.find("pub(super) fn lion").expect("the formula");
        let end = start + source[start..].find("\n}\n").expect("its end");
        assert!(guide.contains(&source[start..end]), "docs/kernels.md shows another text than lion.rs");
    }
}
