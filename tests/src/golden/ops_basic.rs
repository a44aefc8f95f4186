//! Broadcasting arithmetic, reductions, sorting, matmuls, attention.
use super::run::{CaseTensors, check_each_case_and_dtype, check_operation};
use super::{GoldenCase, Outcome, Topic};
use fornax_engine::{AttentionMask, DType, Result, Tensor};

/// Runs every case of the topic.
pub fn check(topic: &Topic) -> Outcome {
    check_each_case_and_dtype(topic, |case, dtype| match case.op() {
        "add" => arithmetic(case, dtype, Tensor::add),
        "sub" => arithmetic(case, dtype, Tensor::sub),
        "mul" => arithmetic(case, dtype, Tensor::mul),
        "div" => arithmetic(case, dtype, Tensor::div),
        "maximum" => arithmetic(case, dtype, Tensor::maximum),
        "minimum" => arithmetic(case, dtype, Tensor::minimum),
        "pow" => arithmetic(case, dtype, |a, b| a.abs()?.affine(1.0, 0.5)?.pow(b)),
        "matmul" => arithmetic(case, dtype, Tensor::matmul),
        "matmul_transposed" => {
            case.allow_params(&["transpose_a", "transpose_b"])?;
            let (ta, tb) = (case.flag("transpose_a"), case.flag("transpose_b"));
            check_operation(case, dtype, |t| {
                Ok(vec![("y", t.get("a").matmul_transposed(t.get("b"), ta, tb)?)])
            })
        }
        "scaled_dot_product_attention" => attention(case, dtype),
        "max_dim" => order(case, dtype, |x, axis| {
            let (values, indices) = x.max(axis)?;
            Ok(vec![("values", values), ("indices", indices)])
        }),
        "argmax" => order(case, dtype, |x, axis| Ok(vec![("indices", x.argmax(axis)?)])),
        "argmin" => order(case, dtype, |x, axis| Ok(vec![("indices", x.argmin(axis)?)])),
        "topk" => {
            let k = case.number("k")? as usize;
            let smallest = !case.flag("largest");
            order(case, dtype, move |x, axis| {
                let (values, indices) = x.topk(k, axis, !smallest)?;
                Ok(vec![("values", values), ("indices", indices)])
            })
        }
        _ => reduction(case, dtype),
    })
}

fn arithmetic(
    case: &GoldenCase,
    dtype: DType,
    f: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
) -> std::result::Result<(), String> {
    case.allow_params(&["formula"])?;
    check_operation(case, dtype, |t| Ok(vec![("y", f(t.get("a"), t.get("b"))?)]))
}

fn order(
    case: &GoldenCase,
    dtype: DType,
    f: impl Fn(&Tensor, usize) -> Result<Vec<(&'static str, Tensor)>>,
) -> std::result::Result<(), String> {
    case.allow_params(&["dim", "k", "largest", "sorted"])?;
    let dim = case.number("dim")? as isize;
    check_operation(case, dtype, |t| {
        let x = t.get("x");
        f(x, dim.rem_euclid(x.rank() as isize) as usize)
    })
}

fn attention(case: &GoldenCase, dtype: DType) -> std::result::Result<(), String> {
    case.allow_params(&["mask", "default_scale", "scale", "is_causal"])?;
    let (scale, causal) = (case.param("scale").as_f64(), case.flag("is_causal"));
    let kind = case.param("mask").as_str();
    if !matches!(kind, None | Some("bool keep" | "additive")) {
        return Err(format!("{}: mask {kind:?} is not known to the test", case.id()));
    }
    check_operation(case, dtype, |t: &CaseTensors| {
        let mask = match (kind, t.find("mask")) {
            (Some("bool keep"), Some(mask)) => AttentionMask::Bool(mask),
            (Some(_), Some(mask)) => AttentionMask::Additive(mask),
            _ if causal => AttentionMask::Causal,
            _ => AttentionMask::None,
        };
        Ok(vec![("y", t.get("q").attention(t.get("k"), t.get("v"), mask, scale)?)])
    })
}

/// A reduction named `<function>_<axes>[_keep]`; the axes are `all`, `last`, or `d` and digits.
fn reduction(case: &GoldenCase, dtype: DType) -> std::result::Result<(), String> {
    case.allow_params(&[])?;
    let unknown = || format!("{}: operation {} is not known to the test", case.id(), case.op());
    let rank = case.tensor("inputs", "x")?.shape.len();
    let (name, keep) = match case.op().strip_suffix("_keep") {
        Some(name) => (name, true),
        None => (case.op(), false),
    };
    let (what, axes) = name.rsplit_once('_').ok_or_else(unknown)?;
    let axes: Vec<usize> = match axes {
        "all" => (0..rank).collect(),
        "last" => vec![rank - 1],
        digits => {
            let digits = digits.strip_prefix('d').ok_or_else(unknown)?;
            digits
                .chars()
                .map(|c| c.to_digit(10).map(|d| d as usize).ok_or_else(unknown))
                .collect::<std::result::Result<_, _>>()?
        }
    };
    if !matches!(
        what,
        "sum"
            | "mean"
            | "var_unbiased"
            | "var_biased"
            | "std_unbiased"
            | "std_biased"
            | "l2norm"
            | "l1norm"
            | "logsumexp"
            | "prod"
            | "amax"
            | "amin"
            | "cumsum"
    ) {
        return Err(unknown());
    }
    check_operation(case, dtype, |t| {
        let x = t.get("x");
        let y = match what {
            "sum" => x.sum(&axes, keep),
            "mean" => x.mean(&axes, keep),
            "var_unbiased" => x.var(&axes, 1, keep),
            "var_biased" => x.var(&axes, 0, keep),
            "std_unbiased" => x.std(&axes, 1, keep),
            "std_biased" => x.std(&axes, 0, keep),
            "l2norm" => x.l2_norm(&axes, keep),
            "l1norm" => x.l1_norm(&axes, keep),
            "logsumexp" => x.log_sum_exp(&axes, keep),
            "prod" => x.prod(axes[0]),
            "amax" => x.amax(&axes, keep),
            "amin" => x.amin(&axes, keep),
            _ => x.cumsum(axes[0]),
        }?;
        Ok(vec![("y", y)])
    })
}
