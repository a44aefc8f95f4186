//! Arithmetic, reductions, sorting, matmuls, attention, shapes, drop path and DropBlock.
use super::case::{fixed, of, x};
use super::{Case, Values};
use fornax_engine::{Activation, AttentionMask, DType, Device, Tensor};

pub(super) fn rows(rows: &mut Vec<Case>) {
    arithmetic(rows);
    reductions(rows);
    matmuls(rows);
    shapes(rows);
}

fn arithmetic(rows: &mut Vec<Case>) {
    type Binary = fn(&Tensor, &Tensor) -> fornax_engine::Result<Tensor>;
    let binary: [(&'static str, Binary, Values); 7] = [
        ("add", Tensor::add, Values::Normal),
        ("sub", Tensor::sub, Values::Normal),
        ("mul", Tensor::mul, Values::Normal),
        ("div", Tensor::div, Values::Positive),
        ("maximum", Tensor::maximum, Values::Normal),
        ("minimum", Tensor::minimum, Values::Normal),
        ("pow", Tensor::pow, Values::Positive),
    ];
    for (op, f, values) in binary {
        let shapes: [(&str, &[usize], &[usize]); 6] = [
            ("same", &[2, 3, 5], &[2, 3, 5]),
            ("row", &[3, 7], &[7]),
            ("column", &[3, 7], &[3, 1]),
            ("both", &[2, 1, 5], &[3, 1]),
            ("scalar", &[3, 5], &[]),
            ("lead", &[5], &[2, 3, 5]),
        ];
        for (variant, a, b) in shapes {
            rows.push(Case::new(op, variant, vec![of(a, values), of(b, values)], move |t| f(&t[0], &t[1])));
        }
        let big = [16, 56, 56, 64];
        rows.push(
            Case::new(op, "same-large", vec![of(&big, values), of(&big, values)], move |t| f(&t[0], &t[1]))
                .large_in(&[0, 1]),
        );
        rows.push(
            Case::new(op, "channel-large", vec![of(&big, values), of(&[64], values)], move |t| {
                f(&t[0], &t[1])
            })
            .large(),
        );
    }
    type Unary = fn(&Tensor) -> fornax_engine::Result<Tensor>;
    let unary: [(&'static str, Unary, Values); 9] = [
        ("mul_scalar", |t| t.mul_scalar(-1.5), Values::Normal),
        ("affine", |t| t.affine(2.0, 0.25), Values::Normal),
        ("abs", Tensor::abs, Values::Normal),
        ("sqrt", Tensor::sqrt, Values::Positive),
        ("ln", Tensor::log, Values::Positive),
        ("square", Tensor::square, Values::Normal),
        ("powf", |t| t.powf(2.5), Values::Positive),
        ("clamp", |t| t.clamp(-0.7, 0.9), Values::Normal),
        ("to_dtype", |t| t.to_dtype(widest(t))?.to_dtype(t.dtype()), Values::Normal),
    ];
    for (op, f, values) in unary {
        rows.push(Case::new(op, "small", vec![of(&[2, 3, 7], values)], move |t| f(&t[0])));
        rows.push(Case::new(op, "large", vec![of(&[16, 56, 56, 64], values)], move |t| f(&t[0])).large());
    }
    let mask = fixed(&[3, 1, 5], Values::Mask);
    rows.push(Case::new("masked", "broadcast", vec![x(&[3, 2, 5]), mask], |t| t[0].masked(&t[1])));
    // A coarse grid has ties.
    let coarse = |shape: &[usize]| fixed(shape, Values::Coarse);
    type Comparison = fn(&Tensor, &Tensor) -> fornax_engine::Result<Tensor>;
    let comparisons: [(&'static str, Comparison); 6] = [
        ("eq", |a, b| a.eq(b)),
        ("ne", |a, b| a.ne(b)),
        ("lt", |a, b| a.lt(b)),
        ("le", |a, b| a.le(b)),
        ("gt", |a, b| a.gt(b)),
        ("ge", |a, b| a.ge(b)),
    ];
    for (op, f) in comparisons {
        let run = move |t: &[Tensor]| f(&t[0], &t[1])?.to_dtype(t[0].dtype());
        rows.push(Case::new(op, "broadcast", vec![coarse(&[3, 1, 5]), coarse(&[2, 1])], run));
        rows.push(Case::new(op, "scalar", vec![coarse(&[3, 5]), coarse(&[])], run));
    }
    let chosen = |t: &[Tensor]| t[0].to_dtype(DType::U8)?.where_cond(&t[1], &t[2]);
    let mask = |shape: &[usize]| fixed(shape, Values::Mask);
    rows.push(Case::new(
        "where_cond",
        "broadcast",
        vec![mask(&[3, 1, 5]), x(&[2, 1]), x(&[3, 2, 5])],
        chosen,
    ));
    rows.push(Case::new("where_cond", "scalar", vec![mask(&[3, 7]), x(&[]), x(&[7])], chosen));
    let big = [16, 56, 56, 64];
    rows.push(
        Case::new("where_cond", "large", vec![mask(&big), x(&big), x(&big)], chosen).large_in(&[0, 1, 2]),
    );
    rows.push(
        Case::new("gt", "large", vec![coarse(&big), coarse(&big)], |t| {
            t[0].gt(&t[1])?.to_dtype(t[0].dtype())
        })
        .large_in(&[0, 1]),
    );
}

fn reductions(rows: &mut Vec<Case>) {
    let small: [(&str, &[usize], bool); 5] = [
        ("first", &[0], false),
        ("middle", &[1], false),
        ("last", &[2], true),
        ("outer", &[0, 2], true),
        ("all", &[0, 1, 2], false),
    ];
    for (variant, axes, keepdim) in small {
        let shape = [3, 5, 7];
        let mut row = |op, values, f: fn(&Tensor, &[usize], bool) -> fornax_engine::Result<Tensor>| {
            let axes = axes.to_vec();
            rows.push(Case::new(op, variant, vec![of(&shape, values)], move |t| f(&t[0], &axes, keepdim)));
        };
        row("sum", Values::Normal, |t, axes, keepdim| t.sum(axes, keepdim));
        row("mean", Values::Normal, |t, axes, keepdim| t.mean(axes, keepdim));
        row("var", Values::Normal, |t, axes, keepdim| t.var(axes, 1, keepdim));
        row("std", Values::Normal, |t, axes, keepdim| t.std(axes, 0, keepdim));
        row("l1_norm", Values::Normal, |t, axes, keepdim| t.l1_norm(axes, keepdim));
        row("l2_norm", Values::Normal, |t, axes, keepdim| t.l2_norm(axes, keepdim));
        row("log_sum_exp", Values::Normal, |t, axes, keepdim| t.log_sum_exp(axes, keepdim));
        row("amax", Values::Distinct, |t, axes, keepdim| t.amax(axes, keepdim));
        row("amin", Values::Distinct, |t, axes, keepdim| t.amin(axes, keepdim));
    }
    for axis in 0..3 {
        let shape = [3, 4, 5];
        let name = format!("axis{axis}");
        rows.push(Case::new("prod", name.clone(), vec![of(&shape, Values::Positive)], move |t| {
            t[0].prod(axis)
        }));
        rows.push(Case::new("cumsum", name.clone(), vec![x(&shape)], move |t| t[0].cumsum(axis)));
        rows.push(Case::new("max_with_index", name.clone(), vec![of(&shape, Values::Distinct)], move |t| {
            Ok(t[0].max(axis)?.0)
        }));
        rows.push(Case::new("top_k", name, vec![of(&shape, Values::Distinct)], move |t| {
            Ok(t[0].topk(2, axis, true)?.0)
        }));
    }
    let index = fixed(&[3, 2], Values::Class(7));
    rows.push(Case::new("gather", "repeated", vec![x(&[3, 7]), index], |t| t[0].gather(1, &t[1])));
    let big = [16, 56, 56, 64];
    rows.push(Case::new("sum", "all-large", vec![x(&big)], |t| t[0].sum_all()).large());
    rows.push(Case::new("sum", "channels-large", vec![x(&big)], |t| t[0].sum(&[0, 1, 2], false)).large());
    rows.push(Case::new("sum", "last-large", vec![x(&big)], |t| t[0].sum(&[3], false)).large());
    rows.push(Case::new("amax", "last-large", vec![x(&[4096, 1000])], |t| t[0].amax(&[1], false)).large());
}

fn matmuls(rows: &mut Vec<Case>) {
    for (variant, a, b) in [
        ("plain", &[3usize, 5][..], &[5usize, 4][..]),
        ("batched", &[2, 3, 5], &[2, 5, 4]),
        ("broadcast", &[2, 1, 3, 5], &[3, 5, 2]),
        ("vector-right", &[3, 5], &[5]),
        ("vector-left", &[5], &[5, 3]),
        ("dot", &[5], &[5]),
    ] {
        rows.push(Case::new("matmul", variant, vec![x(a), x(b)], |t| t[0].matmul(&t[1])));
    }
    for (ta, tb) in [(true, false), (false, true), (true, true)] {
        let a: &[usize] = if ta { &[2, 5, 3] } else { &[2, 3, 5] };
        let b: &[usize] = if tb { &[4, 5] } else { &[5, 4] };
        let variant = format!("transposed-{}-{}", u8::from(ta), u8::from(tb));
        rows.push(Case::new("matmul", variant, vec![x(a), x(b)], move |t| {
            t[0].matmul_transposed(&t[1], ta, tb)
        }));
    }
    rows.push(
        Case::new("matmul", "512-large", vec![x(&[512, 512]), x(&[512, 512])], |t| t[0].matmul(&t[1]))
            .large(),
    );
    rows.push(
        Case::new("matmul", "heads-large", vec![x(&[8, 6, 197, 64]), x(&[8, 6, 64, 197])], |t| {
            t[0].matmul(&t[1])
        })
        .large_in(&[0, 1]),
    );
    rows.push(Case::new("linear", "bias", vec![x(&[3, 7]), x(&[5, 7]), x(&[5])], |t| {
        t[0].linear(&t[1], Some(&t[2]))
    }));
    rows.push(Case::new("linear", "sequence", vec![x(&[2, 3, 7]), x(&[4, 7])], |t| t[0].linear(&t[1], None)));
    for f in [Activation::Relu, Activation::GeluTanh, Activation::Gelu, Activation::Silu] {
        let name = format!("{f:?}").to_lowercase();
        rows.push(Case::new("linear-act", name.clone(), vec![x(&[3, 7]), x(&[8, 7]), x(&[8])], move |t| {
            t[0].linear_act(&t[1], Some(&t[2]), f)
        }));
        let layers = vec![x(&[2, 3, 7]), x(&[8, 7]), x(&[8]), x(&[5, 8]), x(&[5])];
        rows.push(Case::new("mlp", name, layers, move |t| t[0].mlp((&t[1], &t[2]), f, (&t[3], &t[4]))));
    }
    let qkv = |l: usize, s: usize| vec![x(&[2, 2, l, 4]), x(&[2, 2, s, 4]), x(&[2, 2, s, 3])];
    rows.push(Case::new("attention", "plain", qkv(3, 5), |t| {
        t[0].attention(&t[1], &t[2], AttentionMask::None, None)
    }));
    rows.push(Case::new("attention", "causal", qkv(5, 5), |t| {
        t[0].attention(&t[1], &t[2], AttentionMask::Causal, Some(0.3))
    }));
    let heads = [8, 6, 197, 64];
    rows.push(
        Case::new("attention", "vit-large", vec![x(&heads), x(&heads), x(&heads)], |t| {
            t[0].attention(&t[1], &t[2], AttentionMask::None, None)
        })
        .large_in(&[0, 1, 2]),
    );
}

fn shapes(rows: &mut Vec<Case>) {
    rows.push(Case::new("reshape", "flatten", vec![x(&[2, 3, 5])], |t| t[0].flatten(1)));
    rows.push(Case::new("permute", "cycle", vec![x(&[2, 3, 5])], |t| t[0].permute(&[2, 0, 1])));
    rows.push(
        Case::new("permute", "nchw-large", vec![x(&[16, 64, 56, 56])], |t| Tensor::from_nchw(&t[0])).large(),
    );
    rows.push(Case::new("expand", "both", vec![x(&[3, 1])], |t| t[0].expand([2, 3, 5])));
    rows.push(Case::new("narrow", "first", vec![x(&[5, 3])], |t| t[0].narrow(0, 1, 3)));
    rows.push(Case::new("narrow", "middle", vec![x(&[2, 5, 3])], |t| t[0].narrow(1, 2, 2)));
    rows.push(Case::new("pad", "all", vec![x(&[2, 3])], |t| t[0].pad(&[(1, 0), (2, 1)], 0.5)));
    rows.push(Case::new("flip", "middle", vec![x(&[2, 5, 3])], |t| t[0].flip(1)));
    rows.push(Case::new("concat", "middle", vec![x(&[2, 3, 2]), x(&[2, 1, 2])], |t| {
        Tensor::cat(&[&t[0], &t[1]], 1)
    }));
    rows.push(
        Case::new("concat", "channels-large", vec![x(&[16, 56, 56, 64]), x(&[16, 56, 56, 32])], |t| {
            Tensor::cat(&[&t[0], &t[1]], 3)
        })
        .large_in(&[0, 1]),
    );
    let keep = fixed(&[4], Values::Mask);
    rows.push(Case::new("drop_path", "scaled", vec![x(&[4, 3, 3, 2]), keep], |t| {
        t[0].drop_path(&t[1], 0.2, true)
    }));
    let seeds = fixed(&[2, 9, 9, 1], Values::Mask);
    rows.push(Case::new("drop_block", "3", vec![x(&[2, 9, 9, 3]), seeds], |t| {
        t[0].drop_block(&t[1], 1, true)
    }));
}

/// The float dtype with the most precision on the tensor's device.
fn widest(t: &Tensor) -> DType {
    if t.device() == Device::Cpu { DType::F64 } else { DType::F32 }
}
