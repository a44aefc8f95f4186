//! Parameter groups of whole models: weight decay, and learning-rate scale by layer.
use super::{GoldenCase, Outcome, Topic};
use fornax::optim::param_groups::{LayerDecay, ParamGroup, ParamGroupOptions, param_groups};
use fornax_nn::ModelOptions;
use fornax_nn::models::find_model;
use serde_json::Value;

/// Runs every case of the topic.
pub fn check(topic: &Topic) -> Outcome {
    let cases = topic.cases()?;
    let failures: Vec<String> =
        cases.iter().filter_map(|case| of_model(case).err().map(|e| format!("{}: {e}", case.id()))).collect();
    if failures.is_empty() { Ok(cases.len()) } else { Err(failures.join("\n")) }
}

fn of_model(case: &GoldenCase) -> Result<(), String> {
    let model =
        find_model(case.id()).and_then(|m| m.build(&ModelOptions::default())).map_err(|e| e.to_string())?;
    for (key, expected) in case.json.as_object().ok_or("not an object")? {
        let layer_decay = match (key.as_str(), key.strip_prefix("layer_decay_")) {
            ("id", _) => continue,
            ("groups", _) => None,
            (_, Some(decay)) => {
                let decay = decay.parse().map_err(|_| format!("{key} is not known to the test"))?;
                Some(LayerDecay { decay, min_scale: 0.0, no_opt_scale: None })
            }
            _ => return Err(format!("{key} is not known to the test")),
        };
        let expected = expected.as_array().ok_or(format!("{key} is not a list"))?;
        let decays = expected.iter().filter_map(|group| group["weight_decay"].as_f64());
        let options = ParamGroupOptions { weight_decay: decays.fold(0.0, f64::max), layer_decay };
        let got = param_groups(&*model, &options);
        if got.len() != expected.len() {
            return Err(format!("{key}: {} groups, expected {}", got.len(), expected.len()));
        }
        got.iter()
            .zip(expected)
            .try_for_each(|(got, expected)| alike(got, expected).map_err(|e| format!("{key}: {e}")))?;
    }
    Ok(())
}

/// Compares two groups; names as sets, since the file has them sorted.
fn alike(got: &ParamGroup, expected: &Value) -> Result<(), String> {
    let near = |got: f64, key: &str, default: f64| {
        let expected = expected[key].as_f64().unwrap_or(default);
        if (got - expected).abs() <= 1e-12 {
            Ok(())
        } else {
            Err(format!("{key} is {got}, expected {expected}"))
        }
    };
    near(got.weight_decay, "weight_decay", f64::NAN)?;
    near(got.lr_scale, "lr_scale", 1.0)?;
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let names = sorted(got.parameters.iter().map(|parameter| parameter.name.clone()).collect());
    let params = expected["params"].as_array().ok_or("no params")?;
    let params = sorted(params.iter().filter_map(|name| name.as_str().map(String::from)).collect());
    if names == params { Ok(()) } else { Err(format!("a group has {names:?}, expected {params:?}")) }
}
