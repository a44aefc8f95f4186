//! The optimizer: what an update does to parameters, given their gradients and a learning rate.
pub mod groups;

use crate::Result;
use fornax_engine::{
    DType, Device, GradientRule, Tensor, UpdateReport, UpdateRule, UpdateState, Updated, update,
};
use fornax_nn::{Module, named_parameters};

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

/// Changes parameters by their gradients.
pub struct Optimizer {
    parameters: Vec<Parameter>,
    rule: UpdateRule,
    gradients: GradientRule,
    /// For each moment of the rule one tensor a parameter.
    moments: Vec<Vec<Tensor>>,
    state: UpdateState,
    round: Option<DType>,
}

impl Optimizer {
    /// For f32 parameters, all on one device.
    pub fn new(parameters: Vec<Parameter>, rule: UpdateRule, gradients: GradientRule) -> Result<Optimizer> {
        let device = parameters.first().map_or(Device::Cpu, |p| p.tensor.device());
        let zeros =
            || parameters.iter().map(|p| Tensor::zeros(*p.tensor.shape(), DType::F32, &device)).collect();
        let moments = (0..rule.moments()).map(|_| zeros()).collect::<fornax_engine::Result<_>>()?;
        let state = UpdateState::new(gradients, &device)?;
        Ok(Optimizer { parameters, rule, gradients, moments, state, round: None })
    }

    /// Keeps the weights in half precision: rounds them after every update.
    pub fn rounding_to(mut self, dtype: DType) -> Optimizer {
        self.round = Some(dtype);
        self
    }

    /// Sets the learning rate of the next update.
    pub fn set_rate(&self, lr: f64) -> Result<()> {
        Ok(self.state.set_rates(lr, 0.0)?)
    }

    /// What a loss's backward pass starts from: 1, or the loss scale.
    pub fn upstream(&self) -> Tensor {
        self.state.upstream()
    }

    /// Forgets the gradients.
    pub fn zero_grad(&self) {
        self.parameters.iter().for_each(|p| p.tensor.zero_grad());
    }

    /// Updates every parameter that has a gradient. Nothing is read back, so that it can be recorded.
    pub fn step(&self) -> fornax_engine::Result<()> {
        let gradients: Vec<Option<Tensor>> = self.parameters.iter().map(|p| p.tensor.grad()).collect();
        let updated = |(i, parameter): (usize, &'_ Parameter)| {
            Some(Updated {
                weights: &self.parameters[i].tensor,
                gradient: gradients[i].as_ref()?,
                moments: self.moments.iter().map(|of| &of[i]).collect(),
                ema: None,
                weight_decay: parameter.weight_decay as f32,
                round: self.round,
            })
        };
        let all: Vec<Updated> = self.parameters.iter().enumerate().filter_map(updated).collect();
        update(&self.rule, &all, &self.state)
    }

    /// One update at a learning rate.
    pub fn update(&self, lr: f64) -> Result<()> {
        self.set_rate(lr)?;
        Ok(self.step()?)
    }

    /// Updates done, an i64 scalar on the device.
    pub fn updates(&self) -> &Tensor {
        self.state.updates()
    }

    /// How the last update went; waits for it.
    pub fn report(&self) -> Result<UpdateReport> {
        Ok(self.state.report()?)
    }

    /// What it does to gradients before its rule.
    pub fn gradient_rule(&self) -> &GradientRule {
        &self.gradients
    }

    /// All that the next update reads beside parameters and gradients, under unique names. The tensors are the
    /// optimizer's own: writing to them restores a state.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let moments: &[&str] = match self.rule {
            UpdateRule::Sgd { .. } => &["momentum_buffer"],
            UpdateRule::AdamW { .. } => &["exp_avg", "exp_avg_sq"],
        };
        let mut state = vec![("step".to_string(), self.state.updates().clone())];
        if self.gradients.scaling.is_some() {
            state.push(("loss_scale".to_string(), self.state.loss_scale()));
        }
        for (moment, tensors) in moments.iter().zip(&self.moments) {
            let named = self.parameters.iter().zip(tensors);
            state.extend(named.map(|(p, t)| (format!("{moment}/{}", p.name), t.clone())));
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_engine::LossScaling;
    use std::collections::BTreeMap;

    const DOCUMENT: &str = include_str!("../../tests/golden/optim_trajectories.json");
    const TENSORS: &[u8] = include_bytes!("../../tests/golden/optim_trajectories.safetensors");

    fn optimizer(case: &serde_json::Value, parameters: Vec<Parameter>) -> Option<Optimizer> {
        let number = |key: &str, default| case["args"][key].as_f64().unwrap_or(default);
        let beta = |i: usize, default| case["args"]["betas"][i].as_f64().unwrap_or(default);
        let name = case["optimizer"].as_str()?;
        let rule = match name {
            "sgd" | "momentum" => {
                UpdateRule::Sgd { momentum: number("momentum", 0.9) as f32, nesterov: name == "sgd" }
            }
            "adamw" => {
                let betas = [beta(0, 0.9), beta(1, 0.999)];
                UpdateRule::AdamW { betas, eps: number("eps", 1e-8) as f32 }
            }
            _ => return None,
        };
        Some(Optimizer::new(parameters, rule, GradientRule::default()).expect("memory"))
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
            let Some(optimizer) = optimizer(case, parameters.clone()) else { continue };
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
            let rule = match adam {
                true => UpdateRule::AdamW { betas: [0.9, 0.999], eps: 1e-8 },
                false => UpdateRule::Sgd { momentum: 0.9, nesterov: true },
            };
            let scaling = Some(LossScaling { init: 1.0, interval: 2, ..LossScaling::default() });
            let gradients = GradientRule { scaling, clip_norm: None };
            (tensor, Optimizer::new(p, rule, gradients).expect("memory"))
        };
        let advance = |(tensor, optimizer): &(Tensor, Optimizer), step: u32| {
            let grad = [0.1 * step as f32, -0.3, 0.7];
            tensor.set_grad(Some(Tensor::from_slice(&grad, [3]).expect("shape")));
            optimizer.update(0.05).expect("updates");
        };
        for adam in [false, true] {
            let (whole, resumed) = (make(adam), make(adam));
            (0..3).for_each(|step| advance(&whole, step));
            resumed.0.copy_from(&whole.0).expect("same shape");
            let saved: BTreeMap<String, Tensor> =
                whole.1.state().into_iter().map(|(k, t)| (k, t.copy().expect("memory"))).collect();
            resumed.1.state().iter().for_each(|(k, t)| t.copy_from(&saved[k]).expect("same shape"));
            (3..6).for_each(|step| advance(&whole, step));
            (3..6).for_each(|step| advance(&resumed, step));
            assert_eq!(whole.0.to_vec::<f32>().expect("f32"), resumed.0.to_vec::<f32>().expect("f32"));
        }
    }
}
