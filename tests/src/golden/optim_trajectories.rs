//! Optimizers with given gradients, compared after every update.
use super::{GoldenCase, Outcome, Topic};
use fornax::optim::{KwargValue, Optimizer, OptimizerOptions, Parameter, create_optimizer};
use fornax_engine::{DType, GradientRule, Tensor};
use serde_json::Value;

/// Runs every case.
pub fn check(topic: &Topic) -> Outcome {
    let cases = topic.cases()?;
    let failures: Vec<String> = cases.iter().filter_map(|case| run(case).err()).collect();
    if failures.is_empty() { Ok(cases.len()) } else { Err(failures.join("\n")) }
}

fn run(case: &GoldenCase) -> Result<(), String> {
    let say = |e: &dyn std::fmt::Display| format!("{}: {e}", case.id());
    let (topic, args) = (case.topic, &case.json["args"]);
    let lr = args["lr"].as_f64().ok_or_else(|| say(&"no learning rate"))?;
    let parameters = parameters(case).map_err(|e| say(&e))?;
    let name = case.json["optimizer"].as_str().ok_or_else(|| say(&"no optimizer"))?;
    let optimizer = create_optimizer(name, parameters.clone(), &options(case)?, GradientRule::default());
    let optimizer = optimizer.map_err(|e| say(&e))?;
    let factors = topic.json["lr_factor"].as_array().ok_or_else(|| say(&"no lr_factor"))?;
    for (step, factor) in factors.iter().enumerate() {
        for parameter in &parameters {
            let all = topic.tensor(&format!("grads/{}", parameter.name))?;
            let gradient = part(&all.data, step, &parameter.tensor).map_err(|e| say(&e))?;
            parameter.tensor.set_grad(Some(gradient));
        }
        let factor = factor.as_f64().ok_or_else(|| say(&"a factor is not a number"))?;
        optimizer.update(lr * factor).map_err(|e| say(&e))?;
        for parameter in &parameters {
            compare(case, "trajectory", step, parameter)?;
        }
    }
    if case.has("final_synced", &parameters[0].name) {
        sync(case, &optimizer, &parameters)?;
    }
    Ok(())
}

/// Lookahead's synchronisation at the end of an epoch.
fn sync(case: &GoldenCase, optimizer: &Optimizer, parameters: &[Parameter]) -> Result<(), String> {
    optimizer.sync_lookahead().map_err(|e| format!("{}: {e}", case.id()))?;
    parameters.iter().try_for_each(|parameter| compare(case, "final_synced", 0, parameter))
}

fn parameters(case: &GoldenCase) -> Result<Vec<Parameter>, String> {
    let decay = case.json["args"]["weight_decay"].as_f64().unwrap_or(0.0);
    let named = case.topic.json["parameters"].as_object().ok_or("no parameters")?;
    let parameter = |name: &String| -> Result<Parameter, String> {
        let raw = case.topic.tensor(&format!("init/{name}"))?;
        let tensor = raw.to_tensor(DType::F32, &case.topic.device).and_then(channels_last);
        let tensor = tensor.map_err(|e| e.to_string())?.variable();
        let decays = tensor.rank() > 1 && !name.ends_with(".bias");
        Ok(Parameter { weight_decay: if decays { decay } else { 0.0 }, ..Parameter::new(name, tensor) })
    };
    named.keys().map(parameter).collect()
}

fn options(case: &GoldenCase) -> Result<OptimizerOptions, String> {
    let mut options = OptimizerOptions::default();
    let args = case.json["args"].as_object().ok_or("no arguments")?;
    for (name, value) in args {
        match (name.as_str(), value) {
            ("weight_decay", _) => {}
            ("lr", value) => options.lr = value.as_f64(),
            ("momentum", value) => options.momentum = value.as_f64(),
            ("eps", value) => options.eps = value.as_f64(),
            ("betas", Value::Array(betas)) => {
                options.betas = Some(betas.iter().filter_map(Value::as_f64).collect());
            }
            (name, value) => {
                let value = match value {
                    Value::Bool(flag) => KwargValue::Bool(*flag),
                    Value::Null => KwargValue::None,
                    value => KwargValue::Number(
                        value.as_f64().ok_or_else(|| format!("{}: {name} is not a number", case.id()))?,
                    ),
                };
                options.kwargs.insert(name.into(), value);
            }
        }
    }
    Ok(options)
}

/// The elements of one step, in the layout of `like`.
fn part(all: &[f64], step: usize, like: &Tensor) -> fornax_engine::Result<Tensor> {
    let n = like.numel();
    let part = &all[step * n..][..n];
    let tensor = match *like.dims() {
        [o, h, w, i] => Tensor::from_nchw(&Tensor::from_slice(part, [o, i, h, w])?)?,
        _ => Tensor::from_slice(part, *like.shape())?,
    };
    tensor.to_dtype(DType::F32)?.to_device(&like.device())
}

/// Converts a convolution's weight to channels-last.
fn channels_last(tensor: Tensor) -> fornax_engine::Result<Tensor> {
    if tensor.rank() == 4 { Tensor::from_nchw(&tensor) } else { Ok(tensor) }
}

fn compare(case: &GoldenCase, map: &str, step: usize, parameter: &Parameter) -> Result<(), String> {
    let expected = case.tensor(map, &parameter.name)?;
    let name = case.json[map][&parameter.name].as_str().unwrap_or_default();
    let bound = |which: &str| case.json["tol"][name][which].as_f64();
    let (Some(atol), Some(rtol)) = (bound("atol"), bound("rtol")) else {
        return Err(format!("{}: no tolerance for {name}", case.id()));
    };
    let stored = match parameter.tensor.rank() {
        4 => parameter.tensor.to_nchw(),
        _ => Ok(parameter.tensor.clone()),
    };
    let got = stored.and_then(|t| t.to_vec::<f32>()).map_err(|e| format!("{}: {e}", case.id()))?;
    let expected = &expected.data[step * got.len()..][..got.len()];
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let gap = (f64::from(*got) - expected).abs();
        if gap > atol + rtol * expected.abs() || gap.is_nan() {
            let (id, name) = (case.id(), &parameter.name);
            return Err(format!(
                "{id}: update {step} of {name}[{i}]: got {got}, expected {expected}, atol {atol}"
            ));
        }
    }
    Ok(())
}
