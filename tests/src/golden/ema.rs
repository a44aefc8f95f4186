//! EMA of a model's parameters and buffers over a sequence of states.
use super::{GoldenCase, Outcome, StoredTensor, Topic};
use fornax::ema::{Ema, EmaOptions, EmaWarmup};
use fornax_engine::{DType, Result, Tensor};
use fornax_nn::{Context, Module, Visitor, move_to, state_entries};

/// Runs every case of the topic.
pub fn check(topic: &Topic) -> Outcome {
    let cases = topic.cases()?;
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| check_case(case).err().map(|e| format!("{}: {e}", case.id())))
        .collect();
    if failures.is_empty() { Ok(cases.len()) } else { Err(failures.join("\n")) }
}

/// Model of named tensors and `num_batches_tracked`.
struct TensorModel(Vec<(String, Tensor)>);

const COUNTER: &str = "bn.num_batches_tracked";

impl Module for TensorModel {
    fn forward(&self, x: &Tensor, _: &mut Context) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn visit(&self, visitor: &mut Visitor) {
        self.0.iter().for_each(|(name, tensor)| visitor.buffer(name, tensor));
    }
}

impl TensorModel {
    /// The tensors of the topic's sequence, as zeros.
    fn zeros(topic: &Topic) -> std::result::Result<TensorModel, String> {
        let sequences = topic.json["model_sequence"].as_object().ok_or("no model_sequence")?;
        let mut tensors = vec![];
        for (name, key) in sequences {
            let shape = &topic.tensor(key.as_str().ok_or("no name")?)?.shape[1..];
            let zeros = Tensor::zeros(shape, DType::F32, &fornax_engine::Device::Cpu);
            tensors.push((name.clone(), zeros.map_err(|e| e.to_string())?));
        }
        tensors.push((COUNTER.into(), Tensor::scalar(0i64).map_err(|e| e.to_string())?));
        Ok(TensorModel(tensors))
    }

    /// Loads a state of the sequence.
    fn load(&self, topic: &Topic, index: usize) -> std::result::Result<(), String> {
        let say = |e: fornax_engine::Error| e.to_string();
        for (name, tensor) in &self.0 {
            if name == COUNTER {
                let count = topic.json["num_batches_tracked_sequence"][index].as_i64().ok_or("no count")?;
                tensor.copy_from(&Tensor::scalar(count).map_err(say)?).map_err(say)?;
            } else {
                let raw = topic.tensor(topic.json["model_sequence"][name].as_str().ok_or("no name")?)?;
                let values = row(raw, index).to_tensor(DType::F32, &topic.device).map_err(say)?;
                tensor.copy_from(&values).map_err(say)?;
            }
        }
        Ok(())
    }
}

/// One entry of a sequence.
fn row(raw: &StoredTensor, index: usize) -> StoredTensor {
    let (shape, n) = (raw.shape[1..].to_vec(), raw.data.len() / raw.shape[0]);
    StoredTensor { dtype: raw.dtype, shape, data: raw.data[index * n..][..n].to_vec() }
}

fn check_case(case: &GoldenCase) -> std::result::Result<(), String> {
    let (topic, say) = (case.topic, |e: fornax::Error| e.to_string());
    let options = options(case)?;
    let model = TensorModel::zeros(topic)?;
    move_to(&model, &topic.device).map_err(|e| e.to_string())?;
    model.load(topic, 0)?;
    let mut ema =
        Ema::new(&model, Box::new(TensorModel::zeros(topic)?), options, topic.device).map_err(say)?;
    let decays = case.json["decay_per_update"].as_array().ok_or("no decay_per_update")?;
    let counts = case.json["num_batches_tracked"].as_array().ok_or("no num_batches_tracked")?;
    for (i, expected) in decays.iter().enumerate() {
        let decay =
            if case.json["step_passed"] == true { options.decay_at(i as u64 + 1) } else { options.decay };
        if (decay - expected.as_f64().ok_or("no decay")?).abs() > 1e-12 {
            return Err(format!("the decay of update {} is {decay}, expected {expected}", i + 1));
        }
        model.load(topic, i + 1)?;
        ema.set_decay(decay).map_err(say)?;
        ema.update().map_err(|e| e.to_string())?;
        ema.finish_update().map_err(say)?;
        for entry in state_entries(ema.model()) {
            if entry.name == COUNTER {
                let count = entry.tensor.item().map_err(|e| e.to_string())?;
                if Some(count) != counts[i].as_f64() {
                    return Err(format!("after update {} the counter is {count}", i + 1));
                }
                continue;
            }
            let key = case.json["ema"][&entry.name].as_str().ok_or(format!("no {}", entry.name))?;
            let (expected, tol) = (row(topic.tensor(key)?, i), &case.json["tol"][key]);
            let bound = |which: &str| tol[which].as_f64().ok_or(format!("no {which} of {key}"));
            let (atol, rtol) = (bound("atol")?, bound("rtol")?);
            let got = entry.tensor.to_vec::<f32>().map_err(|e| e.to_string())?;
            if got.len() != expected.data.len() {
                return Err(format!(
                    "{}: {} values, expected {}",
                    entry.name,
                    got.len(),
                    expected.data.len()
                ));
            }
            for (got, want) in got.iter().zip(&expected.data) {
                let far = (f64::from(*got) - want).abs() > atol + rtol * want.abs();
                if far || !got.is_finite() {
                    return Err(format!("{} after update {}: {got}, expected {want}", entry.name, i + 1));
                }
            }
        }
    }
    Ok(())
}

fn options(case: &GoldenCase) -> std::result::Result<EmaOptions, String> {
    let mut options =
        EmaOptions { average_integer_buffers: case.json["version"] == "v2", ..EmaOptions::default() };
    let (mut warmup, mut warms) = (EmaWarmup::default(), false);
    for (key, value) in case.json["args"].as_object().ok_or("no args")? {
        let number = || value.as_f64().ok_or(format!("{key} is not a number"));
        match key.as_str() {
            "decay" => options.decay = number()?,
            "use_warmup" => warms = value == true,
            "warmup_gamma" => warmup.gamma = number()?,
            "warmup_power" => warmup.power = number()?,
            "min_decay" => warmup.min_decay = number()?,
            "update_after_step" => options.update_after_step = number()? as u64,
            _ => return Err(format!("argument {key} is not known to the test")),
        }
    }
    options.warmup = warms.then_some(warmup);
    Ok(options)
}
