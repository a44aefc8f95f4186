//! Gradient clipping by norm, by value and adaptively (AGC), as seen in the momentum buffer after one update.
use super::{GoldenCase, Outcome, Topic};
use fornax::optim::{OptimizerOptions, Parameter, create_optimizer};
use fornax_engine::{DType, GradClip, GradientRule};

/// Runs every case.
pub fn check(topic: &Topic) -> Outcome {
    let cases = topic.cases()?;
    let failures: Vec<String> = cases.iter().filter_map(|case| run(case).err()).collect();
    if failures.is_empty() { Ok(cases.len()) } else { Err(failures.join("\n")) }
}

fn run(case: &GoldenCase) -> Result<(), String> {
    let say = |e: &dyn std::fmt::Display| format!("{}: {e}", case.id());
    let limit = case.json["value"].as_f64().ok_or_else(|| say(&"no limit"))? as f32;
    let clip = match case.json["mode"].as_str() {
        Some("norm") => GradClip::Norm(limit),
        Some("value") => GradClip::Value(limit),
        Some("agc") => GradClip::Agc(limit),
        mode => return Err(say(&format!("clips by {mode:?}"))),
    };
    let (mut parameters, mut buffers) = (vec![], vec![]);
    for name in case.roles("clipped") {
        let tensor = |map: &str| {
            let key =
                case.topic.json[map][name].as_str().ok_or_else(|| say(&format!("no {map} of {name}")))?;
            case.topic.tensor(key)?.to_tensor(DType::F32, &case.topic.device).map_err(|e| say(&e))
        };
        let weights = tensor("params")?.variable();
        weights.set_grad(Some(tensor("grads")?));
        parameters.push(Parameter::new(name, weights));
        buffers.push(format!("momentum_buffer/{name}"));
    }
    // The momentum buffer of the first update is the clipped gradient itself.
    let gradients = GradientRule { scaling: None, clip: Some(clip) };
    let optimizer = create_optimizer("momentum", parameters, &OptimizerOptions::default(), gradients);
    let optimizer = optimizer.map_err(|e| say(&e))?;
    optimizer.update(1.0).map_err(|e| say(&e))?;
    let state = optimizer.state_dict();
    for (name, buffer) in case.roles("clipped").into_iter().zip(buffers) {
        let found = state.iter().find(|(key, _)| *key == buffer);
        let (_, clipped) = found.ok_or_else(|| say(&format!("no {buffer}")))?;
        case.check("clipped", name, clipped)?;
    }
    if let Some(norm) = case.json["total_norm_before"].as_f64() {
        let report = optimizer.stats().map_err(|e| say(&e))?;
        let got = f64::from(report.grad_norm.ok_or_else(|| say(&"no norm"))?);
        if (got - norm).abs() > 1e-5 * norm {
            return Err(say(&format!("the norm is {got}, expected {norm}")));
        }
    }
    Ok(())
}
