//! The sequence of loss scales of PyTorch's `GradScaler` in the golden folder, from gradients that overflow or do not.
use fornax::optim::{OptimizerOptions, rule};
use fornax_engine::{DType, Device, GradientRule, LossScaling, Tensor, UpdateState, Updated, update};
use serde_json::Value;

fn device_names() -> Vec<Device> {
    vec![Device::Cpu, Device::emulated(1).expect("g++ is there")]
}

#[test]
fn scales_follow_those_of_pytorch() {
    let text =
        std::fs::read_to_string(fornax_tests::golden::folder().join("schedulers.json")).expect("reads");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let cases = document["cases"].as_array().expect("cases").iter().filter(|c| c["op"] == "grad_scaler");
    let mut seen = 0;
    for case in cases {
        for device in device_names() {
            check(case, &device);
        }
        seen += 1;
    }
    assert!(seen > 0, "the golden folder has no sequence of loss scales");
}

fn check(case: &Value, device: &Device) {
    let number = |key: &str| case["args"][key].as_f64().unwrap_or_else(|| panic!("{key} in {case}")) as f32;
    let scaling = LossScaling {
        init: number("init_scale"),
        growth: number("growth_factor"),
        backoff: number("backoff_factor"),
        interval: number("growth_interval") as u32,
        ..LossScaling::default()
    };
    let list = |key: &str| case[key].as_array().unwrap_or_else(|| panic!("{key} in {case}"));
    let tensor = |value: f32| Tensor::full([3], f64::from(value), DType::F32, device).expect("memory");
    let (weights, buffer) = (tensor(0.0).variable(), tensor(0.0));
    let rule = rule("momentum", &OptimizerOptions::default()).expect("an optimizer").update;
    let state =
        UpdateState::new(GradientRule { scaling: Some(scaling), clip: None }, &rule, device).expect("memory");
    let mut expected = 0.0;
    let overflows = list("found_inf").iter().zip(list("scale_before_step")).zip(list("optimizer_stepped"));
    for (step, ((overflow, scale), stepped)) in overflows.enumerate() {
        let scale_now = state.upstream().item().expect("a scale");
        assert_eq!(Some(scale_now), scale.as_f64(), "{} before step {step} on {device}", case["id"]);
        let overflow = overflow.as_f64() != Some(0.0);
        let gradient = tensor(if overflow { f32::INFINITY } else { scale_now as f32 });
        buffer.copy_from(&tensor(0.0)).expect("same shape");
        let parameter = Updated { moments: vec![&buffer], ..Updated::new(&weights, &gradient) };
        state.set_rates(1.0, 0.0).expect("a copy");
        update(&rule, &[parameter], &state).expect("updates");
        if stepped.as_bool().expect("a bool") {
            expected -= 1.0;
        }
        assert_eq!(weights.to_vec::<f32>().expect("f32"), [expected; 3], "{} step {step}", case["id"]);
    }
    assert_eq!(state.upstream().item().ok(), case["scale_final"].as_f64(), "{} at the end", case["id"]);
}
