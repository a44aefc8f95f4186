//! AdamP and SGDP (Heo et al., "AdamP: slowing down the slowdown for momentum optimizers on scale-invariant weights", 2021): if the
//! gradient is nearly orthogonal to the weights, per row or as a whole, the radial component of the step is removed.
use super::arguments::Arguments;
use super::terms::{RuleBuilder, bias_correction, lerp, next_state};
use fornax_engine::fuse::{Formula, Value};

/// Adam with projected steps.
pub(super) fn adamp(arguments: &mut Arguments) -> RuleBuilder {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-8));
    let (nesterov, projection) = (arguments.flag("nesterov", false), Projection::new(arguments, eps));
    RuleBuilder::new("adamp", &["exp_avg", "exp_avg_sq"], move |f| {
        let g = f.gradient();
        let m = lerp(f.moment(0), g, beta1);
        let v = lerp(f.moment(1), g * g, beta2);
        let direction = if nesterov { lerp(m, g, beta1) } else { m };
        let step = direction / (v.sqrt() / bias_correction(f, beta2).sqrt() + eps);
        let (step, ratio) = projection.project(f, step);
        let weight = f.weight() * (1.0 - f.lr() * f.weight_decay() * ratio);
        next_state(weight - f.lr() / bias_correction(f, beta1) * step, [m, v])
    })
}

/// SGD with projected steps.
pub(super) fn sgdp(arguments: &mut Arguments) -> RuleBuilder {
    let (momentum, dampening) = (arguments.number("momentum", 0.9), arguments.number("dampening", 0.0));
    let (nesterov, eps) = (arguments.flag("nesterov", false), arguments.number("eps", 1e-8));
    let projection = Projection::new(arguments, eps);
    RuleBuilder::new("sgdp", &["momentum"], move |f| {
        let g = f.gradient();
        let b = momentum * f.moment(0) + (1.0 - dampening) * g;
        let (step, ratio) = projection.project(f, if nesterov { g + momentum * b } else { b });
        let weight = f.weight() * (1.0 - f.lr() * f.weight_decay() * ratio / (1.0 - momentum));
        next_state(weight - f.lr() * step, [b])
    })
}

#[derive(Clone, Copy)]
struct Projection {
    delta: f64,
    wd_ratio: f64,
    eps: f64,
    caution: bool,
}

impl Projection {
    fn new(arguments: &mut Arguments, eps: f64) -> Projection {
        Projection {
            delta: arguments.number("delta", 0.1),
            wd_ratio: arguments.number("wd_ratio", 0.1),
            eps,
            caution: arguments.flag("caution", false),
        }
    }

    /// The projected step, and the multiplier of weight decay.
    fn project<'g>(self, f: &'g Formula, step: Value<'g>) -> (Value<'g>, Value<'g>) {
        let (p, g) = (f.weight(), f.gradient());
        let [pg, pp, gg, ps] = [p * g, p * p, g * g, p * step].map(|x| f.row_sum(x));
        let cosine = |pg: Value<'g>, pp: Value<'g>, gg: Value<'g>| {
            pg.abs() / (pp.sqrt().max(self.eps) * gg.sqrt().max(self.eps))
        };
        let not_orthogonal = 1.0 - cosine(pg, pp, gg).less(self.delta / f.row_length().sqrt());
        let matrix = f.ndim().greater(1.0);
        let by_row = matrix * f.sum_of_rows(not_orthogonal).equal(0.0);
        let [all_pg, all_pp, all_gg, all_ps] = [pg, pp, gg, ps].map(|x| f.sum_of_rows(x));
        let as_whole = matrix * cosine(all_pg, all_pp, all_gg).less(self.delta / f.numel().sqrt());
        let projected = by_row.max(as_whole);
        // The radial component of a vector, divided by the weights, from its inner products with them.
        let squared = |pp: Value<'g>| (pp.sqrt() + self.eps).square();
        let radial = |of_row: Value<'g>, of_all: Value<'g>| {
            by_row.select(of_row / squared(pp), as_whole.select(of_all / squared(all_pp), 0.0))
        };
        let mut next = step - radial(ps, all_ps) * p;
        if self.caution {
            // Cautious on the sphere: compared with the tangential component of the gradient, and projected again.
            let agrees = (next * (g - radial(pg, all_pg) * p)).greater(0.0);
            let scale = 1.0 / f.mean(agrees).max(1e-3);
            next = next * agrees;
            let again = f.row_sum(p * next);
            next = scale * (next - radial(again, f.sum_of_rows(again)) * p);
        }
        (next, projected.select(self.wd_ratio, 1.0))
    }
}
