//! Classification losses, accuracy, and mixup targets.
use super::run::{check_each_case_and_dtype, check_operation};
use super::{GoldenCase, Outcome, Topic};
use fornax_engine::DType;
use fornax_nn::loss::{BinaryCrossEntropy, JsdCrossEntropy, Loss, mixup_target, top_k_correct};

/// Runs every case of the topic.
pub fn check(topic: &Topic) -> Outcome {
    check_each_case_and_dtype(topic, |case, dtype| match case.op() {
        "cross_entropy" => {
            case.allow_params(&["reduction"])?;
            if case.text("reduction")? != "mean" {
                return Err(format!("{}: only the mean is known to the test", case.id()));
            }
            check_operation(case, dtype, |t| {
                Ok(vec![("loss", t.get("x").cross_entropy(t.get("target"), 0.0)?)])
            })
        }
        "label_smoothing_cross_entropy" => {
            case.allow_params(&["smoothing"])?;
            let s = case.number("smoothing")?;
            check_operation(case, dtype, |t| {
                Ok(vec![("loss", t.get("x").cross_entropy(t.get("target"), s)?)])
            })
        }
        "soft_target_cross_entropy" => {
            case.allow_params(&[])?;
            check_operation(case, dtype, |t| {
                Ok(vec![("loss", t.get("x").soft_target_cross_entropy(t.get("target"))?)])
            })
        }
        "binary_cross_entropy" => {
            case.allow_params(&[
                "smoothing",
                "target_threshold",
                "sum_classes",
                "pos_weight",
                "target_kind",
            ])?;
            let loss = BinaryCrossEntropy {
                smoothing: case.number("smoothing")?,
                target_threshold: case.param("target_threshold").as_f64(),
                sum_classes: case.flag("sum_classes"),
                pos_weight: case.param("pos_weight").as_f64(),
            };
            check_operation(case, dtype, |t| Ok(vec![("loss", loss.forward(t.get("x"), t.get("target"))?)]))
        }
        "jsd_cross_entropy" => {
            case.allow_params(&["num_splits", "alpha", "smoothing"])?;
            let loss = JsdCrossEntropy {
                num_splits: case.number("num_splits")? as usize,
                alpha: case.number("alpha")?,
                smoothing: case.number("smoothing")?,
            };
            check_operation(case, dtype, |t| Ok(vec![("loss", loss.forward(t.get("x"), t.get("target"))?)]))
        }
        "topk_accuracy" => accuracy(case, dtype),
        "mixup_target" => {
            case.allow_params(&["num_classes", "lam", "smoothing"])?;
            let (classes, lam, smoothing) =
                (case.number("num_classes")? as usize, case.number("lam")?, case.number("smoothing")?);
            check_operation(case, dtype, |t| {
                Ok(vec![("y", mixup_target(t.get("target"), classes, lam, smoothing)?)])
            })
        }
        op => Err(format!("{}: operation {op} is not known to the test", case.id())),
    })
}

fn accuracy(case: &GoldenCase, dtype: DType) -> Result<(), String> {
    case.allow_params(&["topk", "unit", "note"])?;
    let say = |e: fornax_engine::Error| format!("{}: {e}", case.id());
    let logits = case.tensor("inputs", "x")?.to_tensor(dtype, &case.topic.device).map_err(say)?;
    let target = case.tensor("inputs", "target")?.to_tensor(DType::I64, &case.topic.device).map_err(say)?;
    let ks = case.param("topk").as_array().ok_or_else(|| format!("{}: no topk", case.id()))?;
    for k in ks.iter().filter_map(|k| k.as_u64()) {
        let expected =
            case.json[format!("top{k}")].as_f64().ok_or_else(|| format!("{}: no top{k}", case.id()))?;
        let correct = top_k_correct(&logits, &target, k as usize).map_err(say)?;
        let got = 100.0 * correct as f64 / target.numel() as f64;
        if (got - expected).abs() > 1e-9 {
            return Err(format!("{}: top{k} is {got}, expected {expected}", case.id()));
        }
    }
    Ok(())
}
