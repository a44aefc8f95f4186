//! Normalisations, plain and fused.
use super::ops_activation::named;
use super::run::{CaseTensors, check_each_case_and_dtype, check_operation};
use super::{GoldenCase, Outcome, Topic};
use fornax_engine::{Activation, BatchNorm, DType, Result, Tensor};

/// Runs every case of the topic.
pub fn check(topic: &Topic) -> Outcome {
    check_each_case_and_dtype(topic, |case, dtype| match case.op() {
        "batch_norm" | "batch_norm_act" | "batch_norm_add_act" => batch_norm(case, dtype),
        "layer_norm" => {
            case.allow_params(&["axes", "eps", "affine"])?;
            if case.text("axes")? != "last" {
                return Err(format!("{}: only the last axis is known to the test", case.id()));
            }
            let eps = case.number("eps")?;
            check_operation(case, dtype, |t| {
                Ok(vec![("y", t.get("x").layer_norm(t.find("weight"), t.find("bias"), eps)?)])
            })
        }
        "layer_norm_2d" => {
            case.allow_params(&["axes", "eps"])?;
            let eps = case.number("eps")?;
            check_operation(case, dtype, |t| {
                let x = Tensor::from_nchw(t.get("x"))?;
                Ok(vec![("y", x.layer_norm(t.find("weight"), t.find("bias"), eps)?.to_nchw()?)])
            })
        }
        "group_norm" => {
            case.allow_params(&["groups", "eps"])?;
            let (groups, eps) = (case.number("groups")? as usize, case.number("eps")?);
            check_operation(case, dtype, |t| {
                let x = Tensor::from_nchw(t.get("x"))?;
                Ok(vec![("y", x.group_norm(groups, t.get("weight"), t.get("bias"), eps)?.to_nchw()?)])
            })
        }
        "rms_norm" => {
            case.allow_params(&["eps", "formula"])?;
            let eps = case.number("eps")?;
            check_operation(case, dtype, |t| Ok(vec![("y", t.get("x").rms_norm(t.find("weight"), eps)?)]))
        }
        op => Err(format!("{}: operation {op} is not known to the test", case.id())),
    })
}

fn batch_norm(case: &GoldenCase, dtype: DType) -> std::result::Result<(), String> {
    case.allow_params(&["mode", "momentum", "eps", "affine", "track_running_stats", "act", "formula"])?;
    let training = match case.text("mode")? {
        "train" => true,
        "eval" => false,
        mode => return Err(format!("{}: mode {mode} is not known to the test", case.id())),
    };
    let activation = match case.param("act").as_str() {
        Some(name) => named(case, name)?,
        None => Activation::Identity,
    };
    let eps = case.number("eps")?;
    let tracks = case.param("track_running_stats").as_bool().unwrap_or(true);
    check_operation(case, dtype, |t| {
        let mut momentum = case.param("momentum").as_f64();
        if let (true, Some(batches)) = (training, t.find("num_batches_tracked")) {
            // As the layer does: count the batch; without a momentum use the cumulative average.
            let mut batches = batches.write::<i64>()?;
            batches[0] += 1;
            momentum = momentum.or(Some(1.0 / batches[0] as f64));
        }
        let running = t.find("running_mean").zip(t.find("running_var")).filter(|_| tracks);
        let norm = BatchNorm {
            weight: t.find("weight"),
            bias: t.find("bias"),
            running,
            training,
            momentum: momentum.unwrap_or_default(),
            eps,
            ..BatchNorm::default()
        };
        Ok(vec![("y", apply(t, &norm, activation)?)])
    })
}

fn apply(t: &CaseTensors, norm: &BatchNorm, activation: Activation) -> Result<Tensor> {
    let x = t.get("x");
    if x.rank() == 2 {
        return x.batch_norm_act(norm, activation, t.find("residual"));
    }
    let residual = t.find("residual").map(Tensor::from_nchw).transpose()?;
    Tensor::from_nchw(x)?.batch_norm_act(norm, activation, residual.as_ref())?.to_nchw()
}
