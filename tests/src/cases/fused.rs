//! Fused expressions.
use super::row::{of, x};
use super::{Case, Input, Values};
use fornax_engine::fuse::{self, Expression, expression, sigmoid, softplus, tanh};

/// Expressions by name, with the shapes of their inputs beside the first one's: `f` full, `c` by channel, `s` scalar.
fn expressions() -> Vec<(&'static str, &'static str, Expression)> {
    vec![
        ("silu", "f", expression(|[x]| x.silu())),
        ("gelu", "f", expression(|[x]| x.gelu())),
        ("hardswish", "f", expression(|[x]| x * (x + 3.0).clamp(0.0, 6.0) / 6.0)),
        ("mish", "f", expression(|[x]| x * tanh(softplus(x)))),
        ("elu", "f", expression(|[x]| x.greater(0.0).select(x, 1.3 * x.exp_m1()))),
        ("swish", "fc", expression(|[x, beta]| x * sigmoid(beta * x))),
        ("glu", "ff", expression(|[a, b]| a * sigmoid(b))),
        (
            "scale-shift-residual",
            "fccf",
            expression(|[x, scale, shift, r]| fuse::relu(x * scale + shift + r)),
        ),
        ("by-scalar", "fsf", expression(|[x, s, y]| (x * s - y).abs() / (1.0 + s.square()))),
        ("extremes", "ffc", expression(|[a, b, c]| a.max(b) - b.min(c) * (-a).relu())),
        (
            "rational",
            "fc",
            expression(|[x, c]| x / (1.0 + x.square() + c.exp()).sqrt() + (c.square() + 1.0).ln()),
        ),
        (
            "power",
            "fc",
            expression(|[x, c]| (x.square() + 0.5).pow(c.square() + 0.25) * x.square().rsqrt().min(3.0)),
        ),
    ]
}

pub(super) fn rows(rows: &mut Vec<Case>) {
    for (name, lie, f) in expressions() {
        // Kinks at whole numbers are beside multiples of 1/16.
        let input = |images: &[usize], which: char| match which {
            'f' => of(images, Values::Distinct),
            'c' => x(&images[images.len() - 1..]),
            _ => x(&[]),
        };
        for c in [3, 8, 17] {
            let inputs = lie.chars().map(|which| input(&[2, 3, c], which)).collect();
            rows.push(case(format!("{name}-c{c}"), inputs, f.clone()));
        }
        let images = [16, 56, 56, 64];
        let inputs =
            lie.chars().map(|which| if which == 'f' { x(&images) } else { input(&images, which) }).collect();
        let batched: Vec<usize> =
            lie.chars().enumerate().filter(|(_, which)| *which == 'f').map(|(i, _)| i).collect();
        if ["silu", "swish", "glu", "scale-shift-residual"].contains(&name) {
            rows.push(case(format!("{name}-large"), inputs, f).large_in(&batched));
        }
    }
    let gate = expression(|[x, gate, row]| x * sigmoid(gate) + row);
    rows.push(case("gate".into(), vec![x(&[2, 2, 3, 5]), x(&[2, 1, 1, 5]), x(&[3, 5])], gate.clone()));
    rows.push(case("wide-rows".into(), vec![x(&[3, 700]), x(&[1, 700]), x(&[700])], gate.clone()));
    rows.push(case("to-the-first".into(), vec![x(&[4]), x(&[3, 1]), x(&[3, 4])], gate));
}

fn case(variant: String, inputs: Vec<Input>, f: Expression) -> Case {
    Case::new("fuse", variant, inputs, move |t| f.apply(&t.iter().collect::<Vec<_>>()))
}
