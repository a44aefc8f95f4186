//! Optimizers: what an update does to parameters, given their gradients and a learning rate.
mod adamw;
mod sgd;

pub use adamw::AdamW;
pub use sgd::Sgd;

use crate::Result;
use fornax_engine::{Tensor, Updated};
use fornax_nn::{Module, named_parameters};

/// Changes parameters by their gradients.
pub trait Optimizer {
    /// One update of every parameter that has a gradient.
    fn update(&mut self, lr: f64) -> Result<()>;

    /// All that the next update reads beside parameters and gradients, under unique names. The tensors are the
    /// optimizer's own: writing to them restores a state.
    fn state(&self) -> Vec<(String, Tensor)>;
}

/// A parameter as an optimizer sees it.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its dotted name.
    pub name: String,
    /// Its elements and gradient.
    pub tensor: Tensor,
    /// Its weight decay.
    pub weight_decay: f64,
}

/// The parameters of a model. Weight decay skips those of one axis and biases, as timm's groups do.
pub fn parameters(model: &dyn Module, weight_decay: f64) -> Vec<Parameter> {
    let decays = |name: &str, tensor: &Tensor| tensor.rank() > 1 && !name.ends_with(".bias");
    named_parameters(model)
        .into_iter()
        .map(|(name, tensor)| {
            let weight_decay = if decays(&name, &tensor) { weight_decay } else { 0.0 };
            Parameter { name, tensor, weight_decay }
        })
        .collect()
}

impl Parameter {
    /// As an update takes it.
    fn updated<'a, const MOMENTS: usize>(
        &'a self,
        gradient: &'a Tensor,
        moments: [&'a Tensor; MOMENTS],
    ) -> Updated<'a, MOMENTS> {
        Updated { weights: &self.tensor, gradient, moments, weight_decay: self.weight_decay }
    }
}

/// The gradient of each parameter that has one.
fn gradients(parameters: &[Parameter]) -> Vec<Option<Tensor>> {
    parameters.iter().map(|p| p.tensor.grad()).collect()
}

/// A zero tensor for each parameter: the beginning of a moment.
fn zeros(parameters: &[Parameter]) -> Result<Vec<Tensor>> {
    let like = |p: &Parameter| Tensor::zeros(*p.tensor.shape(), p.tensor.dtype(), &p.tensor.device());
    Ok(parameters.iter().map(like).collect::<fornax_engine::Result<_>>()?)
}

/// Moments under the names `<moment>/<parameter>`.
fn named(moment: &str, parameters: &[Parameter], tensors: &[Tensor]) -> Vec<(String, Tensor)> {
    parameters.iter().zip(tensors).map(|(p, t)| (format!("{moment}/{}", p.name), t.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const DOCUMENT: &str = include_str!("../../../tests/golden/optim_trajectories.json");
    const TENSORS: &[u8] = include_bytes!("../../../tests/golden/optim_trajectories.safetensors");

    fn optimizer(case: &serde_json::Value, parameters: Vec<Parameter>) -> Option<Box<dyn Optimizer>> {
        let number = |key: &str, default| case["args"][key].as_f64().unwrap_or(default);
        let beta = |i: usize, default| case["args"]["betas"][i].as_f64().unwrap_or(default);
        let name = case["optimizer"].as_str()?;
        Some(match name {
            "sgd" | "momentum" => {
                Box::new(Sgd::new(parameters, number("momentum", 0.9), name == "sgd").expect("memory"))
            }
            "adamw" => {
                let betas = [beta(0, 0.9), beta(1, 0.999)];
                Box::new(AdamW::new(parameters, betas, number("eps", 1e-8)).expect("memory"))
            }
            _ => return None,
        })
    }

    /// Twenty updates with given gradients end where PyTorch's do, every step of the way.
    #[test]
    fn trajectories_are_those_of_pytorch() {
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).expect("JSON");
        let (tensors, _) = fornax_nn::state_dict::from_safetensors(TENSORS).expect("safetensors");
        let values = |name: &str| tensors[name].to_vec::<f32>().expect("f32");
        let mut compared = vec![];
        for case in document["cases"].as_array().expect("cases") {
            let decay = case["args"]["weight_decay"].as_f64().unwrap_or(0.0);
            let parameters: Vec<Parameter> = document["parameters"]
                .as_object()
                .expect("parameters")
                .keys()
                .map(|name| {
                    let tensor = tensors[&format!("init/{name}")].copy().expect("memory").variable();
                    let decays = tensor.rank() > 1 && !name.ends_with(".bias");
                    Parameter { name: name.clone(), tensor, weight_decay: if decays { decay } else { 0.0 } }
                })
                .collect();
            let Some(mut optimizer) = optimizer(case, parameters.clone()) else { continue };
            let id = case["id"].as_str().expect("an id");
            for (step, factor) in document["lr_factor"].as_array().expect("factors").iter().enumerate() {
                for p in &parameters {
                    let all = values(&format!("grads/{}", p.name));
                    let grad = &all[step * p.tensor.numel()..][..p.tensor.numel()];
                    p.tensor.set_grad(Some(Tensor::from_slice(grad, *p.tensor.shape()).expect("shape")));
                }
                let lr = case["args"]["lr"].as_f64().expect("a rate") * factor.as_f64().expect("a factor");
                optimizer.update(lr).expect("updates");
                for p in &parameters {
                    let key = case["trajectory"][&p.name].as_str().expect("a name");
                    let tolerance =
                        |which: &str| case["tol"][key][which].as_f64().expect("a tolerance") as f32;
                    let expected = &values(key)[step * p.tensor.numel()..][..p.tensor.numel()];
                    for (got, want) in p.tensor.to_vec::<f32>().expect("f32").iter().zip(expected) {
                        let bound = tolerance("atol") + tolerance("rtol") * want.abs();
                        assert!((got - want).abs() <= bound, "{id} {} step {step}: {got}, {want}", p.name);
                    }
                }
            }
            compared.push(id);
        }
        let all = [
            "sgd_nesterov",
            "sgd_nesterov_wd",
            "momentum_wd",
            "momentum_zero",
            "adamw_wd",
            "adamw_betas_eps",
        ];
        assert_eq!(compared, all);
    }

    /// A state copied into a fresh optimizer continues to the same bits.
    #[test]
    fn a_restored_state_continues_exactly() {
        let start = Tensor::from_slice(&[1.0f32, -2.0, 3.0], [3]).expect("shape");
        let make = |adam: bool| {
            let tensor = start.copy().expect("memory").variable();
            let p = vec![Parameter { name: "w".into(), tensor: tensor.clone(), weight_decay: 0.1 }];
            let optimizer: Box<dyn Optimizer> = match adam {
                true => Box::new(AdamW::new(p, [0.9, 0.999], 1e-8).expect("memory")),
                false => Box::new(Sgd::new(p, 0.9, true).expect("memory")),
            };
            (tensor, optimizer)
        };
        let advance = |(tensor, optimizer): &mut (Tensor, Box<dyn Optimizer>), step: u32| {
            let grad = [0.1 * step as f32, -0.3, 0.7];
            tensor.set_grad(Some(Tensor::from_slice(&grad, [3]).expect("shape")));
            optimizer.update(0.05).expect("updates");
        };
        for adam in [false, true] {
            let (mut whole, mut resumed) = (make(adam), make(adam));
            (0..3).for_each(|step| advance(&mut whole, step));
            resumed.0.copy_from(&whole.0).expect("same shape");
            let saved: BTreeMap<String, Tensor> =
                whole.1.state().into_iter().map(|(k, t)| (k, t.copy().expect("memory"))).collect();
            resumed.1.state().iter().for_each(|(k, t)| t.copy_from(&saved[k]).expect("same shape"));
            (3..6).for_each(|step| advance(&mut whole, step));
            (3..6).for_each(|step| advance(&mut resumed, step));
            assert_eq!(whole.0.to_vec::<f32>().expect("f32"), resumed.0.to_vec::<f32>().expect("f32"));
        }
    }
}
