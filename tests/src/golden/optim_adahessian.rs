//! AdaHessian on a two-layer network, with the random vectors of the file: gradients, estimated Hessian diagonals, and parameters after
//! every update.
use super::{GoldenCase, Outcome, Topic};
use fornax::optim::adahessian::hessian_diagonal;
use fornax::optim::{KwargValue, Optimizer, OptimizerOptions, Parameter, create_optimizer};
use fornax_engine::{DType, GradientRule, Tensor, gradients};

/// Runs every case.
pub fn check(topic: &Topic) -> Outcome {
    let cases = topic.cases()?;
    let failures: Vec<String> = cases.iter().filter_map(|case| run(case).err()).collect();
    if failures.is_empty() { Ok(cases.len()) } else { Err(failures.join("\n")) }
}

/// History of a parameter over the steps: gradients, Hessian estimates, and values after the update.
#[derive(Default)]
struct ParameterHistory {
    grads: Vec<Tensor>,
    hess: Vec<Tensor>,
    traj: Vec<Tensor>,
}

fn run(case: &GoldenCase) -> Result<(), String> {
    let say = |e: fornax::Error| format!("{}: {e}", case.id());
    let names = case.roles("z");
    let parameter = |name: &&str| -> Result<Parameter, String> {
        let tensor = input(case, &format!("init/{name}"))?.variable();
        let weight_decay = number(case, "weight_decay")?;
        Ok(Parameter { weight_decay, ..Parameter::new(*name, tensor) })
    };
    let parameters: Vec<Parameter> = names.iter().map(parameter).collect::<Result<_, _>>()?;
    let optimizer =
        create_optimizer("adahessian", parameters.clone(), &options(case)?, GradientRule::default());
    let seen = train(case, &parameters, &optimizer.map_err(say)?)?;
    for (name, seen) in names.iter().zip(&seen) {
        for (map, steps) in [("grads", &seen.grads), ("hess", &seen.hess), ("traj", &seen.traj)] {
            let all = Tensor::cat(&steps.iter().collect::<Vec<_>>(), 0).map_err(|e| say(e.into()))?;
            case.check(map, name, &all)?;
        }
    }
    Ok(())
}

/// Trains the network and returns the history of each parameter.
fn train(
    case: &GoldenCase,
    parameters: &[Parameter],
    optimizer: &Optimizer,
) -> Result<Vec<ParameterHistory>, String> {
    let topic = case.topic;
    let role = |name: &str| topic.json["inputs"][name].as_str().ok_or(format!("no input {name}"));
    let (x, y) = (input(case, role("x")?)?, input(case, role("y")?)?);
    let find = |name: &str| {
        let parameter = parameters.iter().find(|p| p.name == name);
        parameter.map(|p| &p.tensor).ok_or(format!("{}: no parameter {name}", case.id()))
    };
    let (w1, b1, w2) = (find("w1")?, find("b1")?, find("w2")?);
    let vectors: Vec<Tensor> = parameters
        .iter()
        .map(|p| input(case, case.json["z"][&p.name].as_str().unwrap_or_default()))
        .collect::<Result<_, _>>()?;
    let steps = topic.json["steps"].as_u64().ok_or("no number of steps")? as usize;
    let lr = number(case, "lr")?;
    let mut seen: Vec<ParameterHistory> = parameters.iter().map(|_| ParameterHistory::default()).collect();
    let mut step = |at: usize| -> fornax::Result<()> {
        let loss = x.linear(w1, Some(b1))?.tanh()?.linear(w2, None)?.sub(&y)?.square()?.mean_all()?;
        let variables: Vec<&Tensor> = parameters.iter().map(|p| &p.tensor).collect();
        let grads = gradients(&[(&loss, &optimizer.upstream())], &variables, true)?;
        let of_step = |z: &Tensor| z.narrow(0, at, 1)?.reshape(z.dims()[1..].to_vec());
        let z = vectors.iter().map(of_step).collect::<fornax_engine::Result<Vec<_>>>()?;
        let estimates = hessian_diagonal(&grads, &variables, &z, false)?;
        for (i, (grad, estimate)) in grads.iter().zip(&estimates).enumerate() {
            let (grad, estimate) = (
                grad.as_ref().expect("the loss depends on it"),
                estimate.as_ref().expect("the gradient depends on it"),
            );
            parameters[i].tensor.set_grad(Some(grad.detach()));
            optimizer.hessian_diagonals()[i].copy_from(estimate)?;
            seen[i].grads.push(row(grad)?);
            seen[i].hess.push(row(estimate)?);
        }
        optimizer.update(lr)?;
        for (parameter, seen) in parameters.iter().zip(&mut seen) {
            seen.traj.push(row(&parameter.tensor)?);
        }
        Ok(())
    };
    (0..steps).try_for_each(&mut step).map_err(|e| format!("{}: {e}", case.id()))?;
    Ok(seen)
}

/// A copy with an additional first axis.
fn row(t: &Tensor) -> fornax_engine::Result<Tensor> {
    let shape: Vec<usize> = [1].into_iter().chain(t.dims().iter().copied()).collect();
    t.detach().copy()?.reshape(shape)
}

fn input(case: &GoldenCase, name: &str) -> Result<Tensor, String> {
    case.topic.tensor(name)?.to_tensor(DType::F32, &case.topic.device).map_err(|e| e.to_string())
}

fn number(case: &GoldenCase, name: &str) -> Result<f64, String> {
    case.json["args"][name].as_f64().ok_or_else(|| format!("{}: {name} is not a number", case.id()))
}

fn options(case: &GoldenCase) -> Result<OptimizerOptions, String> {
    let mut options = OptimizerOptions::default();
    for name in case.roles("args") {
        match name {
            "lr" | "weight_decay" => {}
            "eps" => options.eps = Some(number(case, name)?),
            "betas" => {
                let betas = case.json["args"][name].as_array().ok_or("betas is not a list")?;
                options.betas = Some(betas.iter().filter_map(|b| b.as_f64()).collect());
            }
            _ => {
                options.kwargs.insert(name.into(), KwargValue::Number(number(case, name)?));
            }
        }
    }
    Ok(options)
}
