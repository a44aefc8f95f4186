//! Muon and AdaMuon against timm, and the second pass of their updates.
use fornax::optim::{KwargValue, Optimizer, OptimizerOptions, Parameter, create_optimizer};
use fornax_engine::{GradientRule, LossScaling, Result, Tensor};
use serde_json::Value;
use std::path::Path;

/// Trajectories of timm: convolution weights `[out, in, h, w]`, four updates per case.
fn reference() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/muon.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("reads")).expect("JSON")
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number") as f32).collect()
}

/// A tensor of the file, channels-last.
fn tensor(reference: &Value, name: &str, values: &Value) -> Result<Tensor> {
    let shape: Vec<usize> = numbers(&reference["shapes"][name]).into_iter().map(|n| n as usize).collect();
    let t = Tensor::from_vec(numbers(values), shape.clone())?;
    if shape.len() == 4 { t.permute(&[0, 2, 3, 1]) } else { Ok(t) }
}

fn parameters(reference: &Value) -> Vec<Parameter> {
    let decay = reference["weight_decay"].as_f64().expect("a number");
    let named = reference["shapes"].as_object().expect("shapes").keys().map(|name| {
        let weights = tensor(reference, name, &reference["init"][name]).expect("a tensor").variable();
        let weight_decay = if weights.rank() > 1 { decay } else { 0.0 };
        Parameter { weight_decay, ..Parameter::new(name, weights) }
    });
    named.collect()
}

fn options(kwargs: &Value) -> OptimizerOptions {
    let mut options = OptimizerOptions { lr: Some(0.02), ..OptimizerOptions::default() };
    for (name, value) in kwargs.as_object().expect("arguments") {
        match (name.as_str(), value) {
            ("betas", betas) => options.betas = Some(numbers(betas).iter().map(|b| f64::from(*b)).collect()),
            ("momentum", value) => options.momentum = value.as_f64(),
            ("eps", value) => options.eps = value.as_f64(),
            (name, Value::Bool(flag)) => drop(options.kwargs.insert(name.into(), KwargValue::Bool(*flag))),
            (name, value) => drop(
                options.kwargs.insert(name.into(), KwargValue::Number(value.as_f64().expect("a number"))),
            ),
        }
    }
    options
}

fn set_gradients(reference: &Value, parameters: &[Parameter], step: usize, factor: f64) -> Result<()> {
    for p in parameters {
        let grad = tensor(reference, &p.name, &reference["grads"][step][&p.name])?;
        p.tensor.set_grad(Some(grad.mul_scalar(factor)?));
    }
    Ok(())
}

/// The weights differ by at most two roundings to bf16 of the orthogonalised momentum.
#[test]
fn muon_matches_timm() -> Result<()> {
    let reference = reference();
    for case in reference["cases"].as_array().expect("cases") {
        let name = case["optimizer"].as_str().expect("a name");
        let parameters = parameters(&reference);
        let optimizer =
            create_optimizer(name, parameters.clone(), &options(&case["kwargs"]), GradientRule::default())
                .expect("the optimizer");
        for (step, expected) in case["traj"].as_array().expect("steps").iter().enumerate() {
            set_gradients(&reference, &parameters, step, 1.0)?;
            optimizer.update(0.02).expect("updates");
            for p in &parameters {
                let expected = tensor(&reference, &p.name, &expected[&p.name])?.to_vec::<f32>()?;
                let update = 0.02 * 0.2 * (p.tensor.numel() as f32).sqrt();
                let tolerance = if p.tensor.rank() > 1 { 2e-6 + update * 0.004 } else { 2e-6 };
                for (a, b) in p.tensor.to_vec::<f32>()?.iter().zip(&expected) {
                    assert!((a - b).abs() < tolerance, "{name} {}, step {step}: {a}, timm {b}", p.name);
                }
            }
        }
    }
    Ok(())
}

/// Weights after the updates of the file, with gradients multiplied by `factor`; a factor that is not finite belongs to a skipped update.
fn train(
    reference: &Value,
    optimizer: &Optimizer,
    parameters: &[Parameter],
    factors: &[f64],
) -> Result<Vec<Vec<f32>>> {
    for (step, factor) in factors.iter().enumerate() {
        set_gradients(reference, parameters, step.min(3), *factor)?;
        optimizer.update(0.02).expect("updates");
    }
    parameters.iter().map(|p| p.tensor.to_vec::<f32>()).collect()
}

#[test]
fn overflow_skips_both_passes_of_an_update() -> Result<()> {
    let reference = reference();
    let rule =
        GradientRule { scaling: Some(LossScaling { init_scale: 1.0, ..LossScaling::default() }), clip: None };
    for name in ["muon", "nadamuon"] {
        let run = |factors: &[f64]| {
            let parameters = parameters(&reference);
            let optimizer = create_optimizer(
                name,
                parameters.clone(),
                &options(&Value::Object(Default::default())),
                rule,
            );
            train(&reference, &optimizer.expect("the optimizer"), &parameters, factors)
        };
        assert_eq!(run(&[1.0, f64::INFINITY])?, run(&[1.0])?, "{name}");
        assert_ne!(run(&[1.0, 1.0])?, run(&[1.0])?, "{name}");
    }
    Ok(())
}

#[test]
fn resumed_optimizer_continues_with_equal_weights() -> Result<()> {
    let reference = reference();
    let create = |parameters: &[Parameter]| {
        create_optimizer(
            "adamuon",
            parameters.to_vec(),
            &options(&Value::Object(Default::default())),
            GradientRule::default(),
        )
        .expect("the optimizer")
    };
    let (whole, resumed) = (parameters(&reference), parameters(&reference));
    let first = create(&whole);
    train(&reference, &first, &whole, &[1.0, 0.5])?;
    let second = create(&resumed);
    whole
        .iter()
        .zip(&resumed)
        .try_for_each(|(from, to)| to.tensor.detach().copy_from(&from.tensor.detach()))?;
    for ((_, to), (_, from)) in second.state_dict().iter().zip(first.state_dict()) {
        to.copy_from(&from)?;
    }
    assert_eq!(
        train(&reference, &second, &resumed, &[1.0, 2.0])?,
        train(&reference, &first, &whole, &[1.0, 2.0])?
    );
    Ok(())
}

#[test]
fn lookahead_with_muon_is_rejected() {
    let error =
        create_optimizer("lookahead_muon", vec![], &OptimizerOptions::default(), GradientRule::default());
    let text = error.err().expect("an error").to_string();
    assert!(text.contains("lookahead_muon is not supported") && text.contains("use muon"), "{text}");
}
