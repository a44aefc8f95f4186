//! Activations, normalisations, softmax.
use super::case::{of, x};
use super::{Case, Values};
use fornax_engine::{Activation, BatchNorm, Tensor};

pub(super) fn rows(rows: &mut Vec<Case>) {
    activations(rows);
    batch_norms(rows);
    other_norms(rows);
    for (variant, shape, axis) in [("last", &[3usize, 17][..], 1), ("middle", &[2, 5, 3], 1)] {
        rows.push(Case::new("softmax", variant, vec![x(shape)], move |t| t[0].softmax(axis)));
        rows.push(Case::new("log_softmax", variant, vec![x(shape)], move |t| t[0].log_softmax(axis)));
    }
    rows.push(Case::new("softmax", "attention-large", vec![x(&[48, 197, 197])], |t| t[0].softmax(2)).large());
    rows.push(Case::new("log_softmax", "4096x1000", vec![x(&[4096, 1000])], |t| t[0].log_softmax(1)).large());
}

fn activations(rows: &mut Vec<Case>) {
    use Activation::*;
    let all = [
        ("relu", Relu),
        ("relu6", Relu6),
        ("silu", Silu),
        ("gelu", Gelu),
        ("gelu_tanh", GeluTanh),
        ("quick_gelu", QuickGelu),
        ("hardswish", HardSwish),
        ("hardsigmoid", HardSigmoid),
        ("sigmoid", Sigmoid),
        ("mish", Mish),
        ("tanh", Tanh),
        ("leaky_relu", LeakyRelu(0.1)),
        ("elu", Elu(1.3)),
        ("softplus", Softplus),
        ("selu", Selu),
        ("hardtanh", HardTanh),
        ("exp", Exp),
    ];
    for (name, f) in all {
        // Values from -8 to 8, with no integer kink nearby.
        let distinct = vec![of(&[4, 64], Values::Distinct)];
        rows.push(Case::new("activate", name, distinct, move |t| t[0].activate(f)));
        let large = vec![x(&[16, 56, 56, 64])];
        rows.push(Case::new("activate", format!("{name}-large"), large, move |t| t[0].activate(f)).large());
    }
}

fn batch_norms(rows: &mut Vec<Case>) {
    use Activation::*;
    for (name, f) in [
        ("plain", Identity),
        ("relu", Relu),
        ("relu6", Relu6),
        ("silu", Silu),
        ("hardswish", HardSwish),
        ("gelu", Gelu),
    ] {
        for c in [1, 3, 8, 17] {
            let images = [3, 3, 5, c];
            let plain = vec![x(&images), x(&[c]), x(&[c])];
            rows.push(batch_norm(format!("{name}-c{c}"), plain, f));
            let residual = vec![x(&images), x(&[c]), x(&[c]), x(&images)];
            rows.push(batch_norm(format!("{name}-residual-c{c}"), residual, f));
        }
    }
    rows.push(batch_norm("two-axes".into(), vec![x(&[5, 7]), x(&[7]), x(&[7])], Identity));
    rows.push(Case::new("batch_norm", "no-parameters", vec![x(&[2, 3, 3, 5])], |t| {
        t[0].batch_norm(&BatchNorm { training: true, eps: 1e-5, ..BatchNorm::default() })
    }));
    let running = vec![
        x(&[2, 3, 3, 5]),
        x(&[5]),
        x(&[5]),
        super::case::fixed(&[5], Values::Normal),
        super::case::fixed(&[5], Values::Positive),
    ];
    rows.push(Case::new("batch_norm", "running", running, |t| {
        let running = Some((&t[3], &t[4]));
        t[0].batch_norm_act(&BatchNorm { running, ..with_parameters(t, false) }, Silu, None)
    }));
    let large: [(&str, [usize; 4]); 4] = [
        ("256-56x56-b16", [16, 56, 56, 256]),
        ("32-28x28-b256", [256, 28, 28, 32]),
        ("64-32x32-b64", [64, 32, 32, 64]),
        ("512-7x7-b16", [16, 7, 7, 512]),
    ];
    for (name, images) in large {
        let c = images[3];
        let images = || of(&images, Values::Coarse);
        let plain = vec![images(), x(&[c]), x(&[c])];
        rows.push(batch_norm(format!("relu-{name}"), plain.clone(), Relu).large());
        rows.push(batch_norm(format!("silu-{name}"), plain, Silu).large());
        let residual = vec![images(), x(&[c]), x(&[c]), images()];
        rows.push(batch_norm(format!("relu-residual-{name}"), residual, Relu).large_in(&[0, 3]));
    }
}

/// Batch norm of input, weight, bias and optionally a residual, in training mode.
fn batch_norm(variant: String, inputs: Vec<super::Input>, f: Activation) -> Case {
    Case::new("batch_norm", variant, inputs, move |t| {
        t[0].batch_norm_act(&with_parameters(t, true), f, t.get(3))
    })
}

fn with_parameters(t: &[Tensor], training: bool) -> BatchNorm<'_> {
    BatchNorm {
        weight: Some(&t[1]),
        bias: Some(&t[2]),
        training,
        momentum: 0.1,
        eps: 1e-5,
        ..BatchNorm::default()
    }
}

fn other_norms(rows: &mut Vec<Case>) {
    let mut row_norms = |variant: &str, shape: &[usize], large: bool| {
        let c = shape[shape.len() - 1];
        let layer = Case::new("layer_norm", variant, vec![x(shape), x(&[c]), x(&[c])], |t| {
            t[0].layer_norm(Some(&t[1]), Some(&t[2]), 1e-6)
        });
        let rms =
            Case::new("rms_norm", variant, vec![x(shape), x(&[c])], |t| t[0].rms_norm(Some(&t[1]), 1e-6));
        rows.extend([layer, rms].map(|case| if large { case.large() } else { case }));
    };
    row_norms("pixels", &[2, 3, 3, 5], false);
    row_norms("wide", &[3, 35], false);
    row_norms("vit-large", &[8, 197, 384], true);
    row_norms("convnext-large", &[16, 56, 56, 96], true);
    rows.push(Case::new("layer_norm", "no-parameters", vec![x(&[3, 7])], |t| {
        t[0].layer_norm(None, None, 1e-5)
    }));
    rows.push(Case::new("rms_norm", "no-parameters", vec![x(&[3, 7])], |t| t[0].rms_norm(None, 1e-5)));
    rows.push(Case::new("standardize_weight", "3x3", vec![x(&[4, 3, 3, 5])], |t| {
        t[0].standardize_weight(1e-6)
    }));
    let mut group_norm = |variant: &str, images: [usize; 4], groups: usize, large: bool| {
        let c = images[3];
        let case = Case::new("group_norm", variant, vec![x(&images), x(&[c]), x(&[c])], move |t| {
            t[0].group_norm(groups, &t[1], &t[2], 1e-5)
        });
        rows.push(if large { case.large() } else { case });
    };
    group_norm("two-groups", [3, 3, 5, 6], 2, false);
    group_norm("one-group", [2, 3, 3, 5], 1, false);
    group_norm("a-group-each", [2, 3, 3, 3], 3, false);
    group_norm("32-groups-large", [16, 56, 56, 64], 32, true);
}
