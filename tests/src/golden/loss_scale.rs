//! Sequences of loss scales of PyTorch's `GradScaler`, for gradients with and without overflow.
use super::GoldenCase;
use fornax::optim::{OptimizerOptions, rule};
use fornax_engine::{DType, GradientRule, LossScaling, Tensor, UpdateOperands, UpdateState, update};

/// Runs a case of the operation `grad_scaler`.
pub fn check(case: &GoldenCase) -> Result<(), String> {
    let number = |key: &str| case.json["args"][key].as_f64().ok_or(format!("no {key}"));
    let scaling = LossScaling {
        init_scale: number("init_scale")? as f32,
        growth_factor: number("growth_factor")? as f32,
        backoff_factor: number("backoff_factor")? as f32,
        growth_interval: number("growth_interval")? as u32,
        // PyTorch's has no lower bound.
        min_scale: 0.0,
    };
    let list = |key: &str| case.json[key].as_array().ok_or(format!("no {key}"));
    let (overflows, scales, stepped) =
        (list("found_inf")?, list("scale_before_step")?, list("optimizer_stepped")?);
    let seen = run(case, scaling, overflows).map_err(|e| e.to_string())?;
    let mut weight = 0.0;
    for (i, (scale, after)) in seen[..overflows.len()].iter().enumerate() {
        weight -= if stepped[i] == true { 1.0 } else { 0.0 };
        if Some(*scale) != scales[i].as_f64() || *after != [weight; 3] {
            return Err(format!("update {i}: the scale was {scale}, the weights are {after:?}"));
        }
    }
    let last = seen[overflows.len()].0;
    if Some(last) == case.json["scale_final"].as_f64() { Ok(()) } else { Err(format!("it ends with {last}")) }
}

/// The scale before each update and the weights after it, which decrease by 1 unless the update is skipped; then the final scale.
fn run(
    case: &GoldenCase,
    scaling: LossScaling,
    overflows: &[serde_json::Value],
) -> fornax_engine::Result<Vec<(f64, Vec<f32>)>> {
    let device = &case.topic.device;
    let tensor = |value: f64| Tensor::full([3], value, DType::F32, device);
    let (weights, buffer) = (tensor(0.0)?.variable(), tensor(0.0)?);
    let rule = rule("momentum", &OptimizerOptions::default()).expect("an optimizer");
    let state = UpdateState::new(GradientRule { scaling: Some(scaling), clip: None }, &rule.update, device)?;
    let mut seen = vec![];
    for overflow in overflows {
        let scale = state.upstream().item()?;
        let gradient = tensor(if overflow.as_f64() == Some(0.0) { scale } else { f64::INFINITY })?;
        buffer.copy_from(&tensor(0.0)?)?;
        let updated = UpdateOperands { moments: vec![&buffer], ..UpdateOperands::new(&weights, &gradient) };
        state.set_lr(1.0, 0.0)?;
        update(&rule.update, &[updated], &state)?;
        seen.push((scale, weights.to_vec::<f32>()?));
    }
    seen.push((state.upstream().item()?, vec![]));
    Ok(seen)
}
