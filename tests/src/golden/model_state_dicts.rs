//! Names and shapes of parameters and buffers, and the default data configuration of whole models.
use super::{GoldenCase, Outcome, Topic};
use fornax_nn::models::{ModelInfo, PretrainedCfg, find_model};
use fornax_nn::{ModelOptions, StateKind, StateLayout, state_entries};
use serde_json::{Value, json};

/// Runs every case of the topic.
pub fn check(topic: &Topic) -> Outcome {
    super::run::check_each_case(topic, |case| {
        let info = find_model(case.id()).map_err(|e| format!("{}: {e}", case.id()))?;
        names(&case, info)?;
        configuration(&case, info)
    })
}

fn names(case: &GoldenCase, info: &ModelInfo) -> Result<(), String> {
    let say = |e: fornax_nn::Error| format!("{}: {e}", case.id());
    let model = info.build(&ModelOptions::default()).map_err(say)?;
    let all = state_entries(&*model);
    let of = |kind: StateKind| -> Vec<Value> {
        all.iter()
            .filter(|e| e.kind == kind)
            .map(|e| match (e.layout, e.tensor.dims()) {
                (StateLayout::ConvWeight, &[o, h, w, i]) => json!([e.name, [o, i, h, w]]),
                (_, dims) => json!([e.name, dims]),
            })
            .collect()
    };
    same(case, "parameters", &json!(of(StateKind::Parameter)), &case.json["parameters"])?;
    same(case, "buffers", &json!(of(StateKind::Buffer)), &case.json["buffers"])?;
    if !case.json["state_dict_order"].is_null() {
        let order: Vec<&str> = all.iter().map(|e| e.name.as_str()).collect();
        same(case, "state_dict_order", &json!(order), &case.json["state_dict_order"])?;
    }
    let count: usize = all.iter().filter(|e| e.kind == StateKind::Parameter).map(|e| e.tensor.numel()).sum();
    same(case, "param_count", &json!(count), &case.json["param_count"])?;
    same(case, "num_features", &json!(model.num_features()), &case.json["num_features"])?;
    same(case, "head_hidden_size", &json!(model.head_hidden_size()), &case.json["head_hidden_size"])
}

/// Every key that the case lists.
fn configuration(case: &GoldenCase, info: &ModelInfo) -> Result<(), String> {
    let PretrainedCfg { input_size: [h, w], .. } = info.pretrained_cfg;
    let known = json!({
        "input_size": [3, h, w],
        "test_input_size": info.pretrained_cfg.test_input_size.map(|[h, w]| [3, h, w]),
        "fixed_input_size": info.pretrained_cfg.fixed_input_size,
        "interpolation": info.pretrained_cfg.interpolation,
        "crop_pct": info.pretrained_cfg.crop_pct,
        "test_crop_pct": info.pretrained_cfg.test_crop_pct,
        "crop_mode": info.pretrained_cfg.crop_mode,
        "mean": info.pretrained_cfg.mean,
        "std": info.pretrained_cfg.std,
        "num_classes": info.pretrained_cfg.num_classes,
        "pool_size": info.pretrained_cfg.pool_size,
        "first_conv": info.pretrained_cfg.first_conv,
        "classifier": info.pretrained_cfg.classifier,
    });
    let listed =
        case.json["default_cfg"].as_object().ok_or_else(|| format!("{}: no default_cfg", case.id()))?;
    for (key, expected) in listed {
        let got = known.get(key).ok_or_else(|| format!("{}: {key} is not known to the test", case.id()))?;
        same(case, key, got, expected)?;
    }
    // Keys that the case omits must be null here.
    match known.as_object().into_iter().flatten().find(|(key, v)| !v.is_null() && !listed.contains_key(*key))
    {
        Some((key, value)) => Err(format!("{}: {key} is {value}, the case has none", case.id())),
        None => Ok(()),
    }
}

fn same(case: &GoldenCase, what: &str, got: &Value, expected: &Value) -> Result<(), String> {
    if got == expected {
        return Ok(());
    }
    let (empty, at) = (vec![], |list: &Value, i: usize| list.get(i).cloned().unwrap_or_default());
    let (a, b) = (got.as_array().unwrap_or(&empty), expected.as_array().unwrap_or(&empty));
    let first = (0..a.len().max(b.len())).find(|&i| a.get(i) != b.get(i));
    Err(match first {
        Some(i) => format!("{}: {what}[{i}] is {}, expected {}", case.id(), at(got, i), at(expected, i)),
        None => format!("{}: {what} is {got}, expected {expected}", case.id()),
    })
}
