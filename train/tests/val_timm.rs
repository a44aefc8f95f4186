//! `fornax val` against timm's validate.py: loss, accuracy, input size and crop of weights and images that both sides have.
mod common;
#[path = "../../tests/src/golden/formula.rs"]
mod formula;

use common::succeed;
use fornax::nn::ModelOptions;
use fornax::nn::models::find_model;
use fornax::nn::state_dict::{state_dict, to_safetensors};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Expected: timm 1.0.31, see `data/validate/generate.py`.
#[test]
fn losses_and_accuracies_equal_those_of_timm() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/validate");
    let expected: Value =
        serde_json::from_str(&fs::read_to_string(data.join("expected.json")).expect("reads")).expect("JSON");
    let folder = tempfile::tempdir().expect("a folder");
    let results = expected["results"].as_array().expect("a list");
    assert_eq!(results.len(), 8);
    for result in results {
        let number = |key: &str| result[key].as_f64().unwrap_or_else(|| panic!("{key}"));
        let name = result["model"].as_str().expect("a name");
        let weights = folder.path().join(format!("{name}.safetensors"));
        if !weights.exists() {
            let options = ModelOptions { num_classes: 3, ..ModelOptions::default() };
            let model = find_model(name).expect("a model").build(&options).expect("builds");
            let salt = expected["salt"].as_str().expect("a salt");
            formula::fill(&*model, salt, number("gain")).expect("fills");
            let tensors = state_dict(&*model).expect("a state dict");
            fs::write(&weights, to_safetensors(&tensors, None).expect("bytes")).expect("writes");
        }
        let flag = if result["use_train_size"] == true { "--use-train-size" } else { "" };
        let images = data.join("images").display().to_string();
        let arguments =
            format!("val {images} --model {name} --checkpoint {name}.safetensors --json {flag} --device cpu");
        let found: Value = serde_json::from_str(&succeed(folder.path(), &arguments)).expect("JSON");
        let near = |key: &str, tolerance: f64| {
            let (found, expected) = (found[key].as_f64().expect("a number"), number(key));
            assert!((found - expected).abs() <= tolerance, "{name} {flag} {key}: {found}, timm {expected}");
        };
        near("loss", 1e-5);
        near("top1", 1e-4);
        near("top5", 1e-4);
        near("crop_pct", 1e-9);
        assert_eq!(found["input_size"][1], result["img_size"], "{name} {flag}");
        assert_eq!(found["interpolation"], result["interpolation"], "{name} {flag}");
    }
}
