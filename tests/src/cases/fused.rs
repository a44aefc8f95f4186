//! Fused expressions.
use super::case::{of, x};
use super::{Case, Input, Values};
use fornax_engine::fuse::{self, Expression, expression, sigmoid, softplus, tanh};
use fornax_engine::{BatchNorm, Tensor};

/// Expressions by name, with the broadcast kind of each input: `f` full, `c` per channel, `s` scalar.
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
    batch_norms(rows);
    for (name, broadcasts, f) in expressions() {
        // Values with no integer kink nearby.
        let input = |images: &[usize], which: char| match which {
            'f' => of(images, Values::Distinct),
            'c' => x(&images[images.len() - 1..]),
            _ => x(&[]),
        };
        for c in [3, 8, 17] {
            let inputs = broadcasts.chars().map(|which| input(&[2, 3, c], which)).collect();
            rows.push(case(format!("{name}-c{c}"), inputs, f.clone()));
        }
        let images = [16, 56, 56, 64];
        let inputs = broadcasts
            .chars()
            .map(|which| if which == 'f' { x(&images) } else { input(&images, which) })
            .collect();
        let batched: Vec<usize> =
            broadcasts.chars().enumerate().filter(|(_, which)| *which == 'f').map(|(i, _)| i).collect();
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

fn batch_norms(rows: &mut Vec<Case>) {
    let activations: [(&'static str, Expression); 3] = [
        ("silu", expression(|[x]| x.silu())),
        ("elu", expression(|[x]| x.greater(0.0).select(x, x.exp_m1()))),
        ("serf", expression(|[x]| x * fuse::erf(softplus(x)))),
    ];
    for (name, f) in activations {
        for c in [1, 3, 8] {
            let images = [3, 3, 5, c];
            let plain = vec![x(&images), x(&[c]), x(&[c])];
            rows.push(batch_norm(format!("{name}-c{c}"), plain.clone(), true, f.clone()));
            rows.push(batch_norm(format!("{name}-frozen-c{c}"), plain, false, f.clone()));
            let residual = vec![x(&images), x(&[c]), x(&[c]), x(&images)];
            rows.push(batch_norm(format!("{name}-residual-c{c}"), residual, true, f.clone()));
        }
    }
    let images = [16, 56, 56, 256];
    let serf = expression(|[x]| x * fuse::erf(softplus(x)));
    let inputs = vec![of(&images, Values::Coarse), x(&[256]), x(&[256])];
    rows.push(batch_norm("serf-256-56x56-b16".into(), inputs, true, serf).large());
}

/// Fused batch norm of input, weight, bias and optionally a residual; with the batch's statistics or with running ones.
fn batch_norm(variant: String, inputs: Vec<Input>, of_batch: bool, f: Expression) -> Case {
    Case::new("batch_norm_fused", variant, inputs, move |t| {
        let ones = Tensor::ones(*t[1].shape(), t[1].dtype(), &t[0].device())?;
        let running = (!of_batch).then_some((&ones, &ones));
        let (weight, bias) = (Some(&t[1]), Some(&t[2]));
        let norm = BatchNorm {
            weight,
            bias,
            running,
            training: of_batch,
            momentum: 0.1,
            eps: 1e-5,
            ..BatchNorm::default()
        };
        t[0].batch_norm_fused(&norm, &f, t.get(3))
    })
}
