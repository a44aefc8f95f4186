//! MADGRAD (Defazio and Jelassi, "Adaptivity without compromise: a momentumized, adaptive, dual averaged gradient method for stochastic
//! optimization", 2021).
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, is_first, next_state};
use fornax_engine::fuse::Value;

pub(super) fn madgrad(arguments: &mut Arguments) -> RuleBuilder {
    let (momentum, eps) = (arguments.number("momentum", 0.9), arguments.number("eps", 1e-6));
    let decoupled = arguments.flag("decoupled_decay", false);
    let decay = if decoupled { WeightDecay::Decoupled } else { WeightDecay::L2 };
    let names = ["grad_sum_sq", "s", "x0"];
    RuleBuilder::new("madgrad", &names[..if momentum == 0.0 { 2 } else { 3 }], move |f| {
        let (g, p) = (decay.gradient(f), decay.decayed_weight(f));
        let root = |squares| cube_root(squares) + eps;
        let scale = (f.lr() + eps) * f.step().sqrt();
        let squares = f.moment(0) + scale * g * g;
        let sum = f.moment(1) + scale * g;
        if momentum == 0.0 {
            // The initial weights follow from the current ones.
            let start = p + f.moment(1) / root(f.moment(0));
            return next_state(start - sum / root(squares), [squares, sum]);
        }
        let start = is_first(f).select(f.weight(), f.moment(2));
        let target = start - sum / root(squares);
        next_state(momentum * p + (1.0 - momentum) * target, [squares, sum, start])
    })
}

fn cube_root(x: Value) -> Value {
    x.pow(1.0 / 3.0)
}
