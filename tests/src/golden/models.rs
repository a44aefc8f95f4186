//! Whole models with formula weights: evaluation, feature pyramid, one training step.
//!
//! In f64 every number must be within the file's tolerance. In f32 a pre-activation within rounding distance of ReLU's kink may fall on
//! either side and change gradients by jumps, so the tolerance of gradients is increased by the case's worst f32 error.
use super::{GoldenCase, Outcome, Topic, formula};
use crate::sweep;
use fornax_engine::{DType, Device, Tensor, no_grad};
use fornax_nn::models::{FeatureExtractor, Model, find_model};
use fornax_nn::{Context, ModelOptions, StateLayout, move_to, state_entries};
use serde_json::Value;

/// Runs every case of the topic on the CPU in f64, and one model of each architecture in f32 too (all of them in a full sweep). On other
/// devices one model of each architecture runs, as the emulated device is slow.
pub fn check(topic: &Topic) -> Outcome {
    let mut architectures = vec![];
    super::run::check_each_case(topic, |case| {
        let name = case.json["model"].as_str().unwrap_or_default();
        let architecture: String = name.chars().take_while(|c| c.is_ascii_alphabetic()).collect();
        let first = !architectures.contains(&architecture);
        let dtypes: &[DType] = match topic.device {
            Device::Cpu if first || sweep::is_full() => &[DType::F64, DType::F32],
            Device::Cpu => &[DType::F64],
            _ if first => &[DType::F32],
            _ => &[],
        };
        architectures.push(architecture);
        dtypes
            .iter()
            .try_for_each(|dtype| ModelRun::new(&case, *dtype)?.check().map_err(|e| format!("[{dtype}] {e}")))
    })
}

struct ModelRun<'a> {
    case: &'a GoldenCase<'a>,
    model: Box<dyn Model>,
    x: Tensor,
    target: Tensor,
    /// Added to the tolerance of gradients, relative to their norm.
    slack: f64,
}

type BoxError = Box<dyn std::error::Error>;

impl<'a> ModelRun<'a> {
    fn new(case: &'a GoldenCase<'a>, dtype: DType) -> Result<ModelRun<'a>, String> {
        ModelRun::build(case, dtype).map_err(|e| format!("{}: {e}", case.id()))
    }

    fn build(case: &'a GoldenCase<'a>, dtype: DType) -> Result<ModelRun<'a>, BoxError> {
        let text = |key: &str| case.json[key].as_str().ok_or_else(|| format!("no {key}"));
        let device = &case.topic.device;
        let mut options = ModelOptions::default();
        for (name, value) in case.json["create_kwargs"].as_object().ok_or("no create_kwargs")? {
            options.set(name, &value.as_str().map_or_else(|| value.to_string(), String::from))?;
        }
        let model = find_model(text("model")?)?.build(&options)?;
        let salt = text("salt")?;
        formula::fill(&*model, salt, case.json["gain"].as_f64().ok_or("no gain")?)?;
        let count: usize = state_entries(&*model)
            .iter()
            .filter(|e| e.kind == fornax_nn::StateKind::Parameter)
            .map(|e| e.tensor.numel())
            .sum();
        if Some(count as u64) != case.json["param_count"].as_u64() {
            return Err(format!("{count} parameters, expected {}", case.json["param_count"]).into());
        }
        move_to(&*model, device)?;
        let shape: Vec<usize> = serde_json::from_value(case.json["input_shape"].clone())?;
        let name = format!("{salt}/input");
        let input = (0..shape.iter().product::<usize>() as u32).map(|i| 3f64.sqrt() * formula::v(&name, i));
        let x = Tensor::from_vec(input.collect::<Vec<f64>>(), shape.as_slice())?
            .to_dtype(DType::F32)?
            .to_dtype(dtype)?;
        let target: Vec<i64> = serde_json::from_value(case.json["target"].clone())?;
        let target = Tensor::from_slice(&target, [target.len()])?.to_device(device)?;
        let worst =
            case.json["train"]["worst_float32_relative_grad_error"].as_f64().ok_or("no worst error")?;
        let slack = if dtype == DType::F32 { worst } else { 0.0 };
        Ok(ModelRun { case, model, x: Tensor::from_nchw(&x)?.to_device(device)?, target, slack })
    }

    fn check(self) -> Result<(), String> {
        let id = self.case.id();
        let say = |e: BoxError| match e.to_string() {
            text if text.starts_with(id) => text,
            text => format!("{id}: {text}"),
        };
        no_grad(|| self.evaluate()).map_err(say)?;
        self.train().map_err(say)?;
        let (case, x) = (self.case, self.x.clone());
        no_grad(|| pyramid(case, self.model, &x)).map_err(say)
    }

    fn evaluate(&self) -> Result<(), BoxError> {
        let (eval, mut cx) =
            (CasePart { case: self.case, json: &self.case.json["eval"], slack: 0.0 }, Context::eval());
        let features = self.model.forward_features(&self.x, &mut cx)?;
        let as_stored = if features.rank() == 4 { features.to_nchw()? } else { features.clone() };
        eval.probe("forward_features", "probe/features", &as_stored)?;
        eval.compare("pre_logits", &self.model.forward_head(&features, true, &mut cx)?)?;
        eval.compare("logits", &self.model.forward_head(&features, false, &mut cx)?)?;
        let whole = self.model.forward(&self.x, &mut cx)?;
        eval.compare("logits", &whole)
    }

    fn train(&self) -> Result<(), BoxError> {
        let train = CasePart { case: self.case, json: &self.case.json["train"], slack: self.slack };
        let x = self.x.variable();
        let logits = self.model.forward(&x, &mut Context::train())?;
        train.compare("logits", &logits)?;
        let loss = logits.cross_entropy(&self.target, 0.1)?;
        train.number("loss", loss.item()?, "loss_tol")?;
        loss.backward()?;
        let stored = |layout: StateLayout, t: &Tensor| match layout {
            StateLayout::Same => Ok(t.clone()),
            StateLayout::ConvWeight => t.to_nchw(),
        };
        let (mut total, mut probed, mut statistics) = (0.0, 0, 0);
        for e in state_entries(&*self.model) {
            if e.kind == fornax_nn::StateKind::Buffer {
                let probe = &train.json["running_stats"][&e.name];
                if !probe.is_null() {
                    CasePart { slack: 0.0, ..train }.probe_list(&e.name, probe, &e.tensor)?;
                    statistics += 1;
                }
                train.compare_full("running_stats_full", &e.name, &e.tensor)?;
                continue;
            }
            let grad = e.tensor.grad().ok_or_else(|| format!("{} has no gradient", e.name))?;
            let grad = stored(e.layout, &grad)?;
            total += values(&grad)?.iter().map(|v| v * v).sum::<f64>();
            train.probe_list(&e.name, &train.json["grad_probes"][&e.name], &grad)?;
            train.compare_full("grads", &e.name, &grad)?;
            probed += 1;
        }
        let listed = |key: &str| train.json[key].as_object().map_or(0, |m| m.len());
        if (probed, statistics) != (listed("grad_probes"), listed("running_stats")) {
            return Err(format!(
                "{probed} gradients and {statistics} statistics compared, others are listed"
            )
            .into());
        }
        let (norm, atol) = (&train.json["global_grad_norm"], &train.json["global_grad_norm_tol"]);
        let (norm, atol) = (norm.as_f64().ok_or("no norm")?, atol.as_f64().ok_or("no norm")?);
        within("global_grad_norm", total.sqrt(), norm, atol + self.slack * norm)?;
        train.probe("input_grad", "probe/input", &x.grad().ok_or("the input has no gradient")?.to_nchw()?)
    }
}

/// The feature levels that the case lists, by a feature extractor of these levels.
fn pyramid(case: &GoldenCase, model: Box<dyn Model>, x: &Tensor) -> Result<(), BoxError> {
    let levels = case.json["features_only"].as_array().ok_or("no features_only")?;
    let all = model.feature_info();
    let modules: Vec<&str> = levels.iter().filter_map(|l| l["module"].as_str()).collect();
    let indices: Vec<isize> = modules
        .iter()
        .map(|m| all.iter().position(|i| i.module == *m).map(|i| i as isize).ok_or(format!("no level {m}")))
        .collect::<Result<_, _>>()?;
    // The training step has updated the running statistics.
    let statistics = state_entries(&*model);
    let (salt, gain) =
        (case.json["salt"].as_str().unwrap_or_default(), case.json["gain"].as_f64().unwrap_or(0.0));
    for e in
        statistics.iter().filter(|e| e.kind == fornax_nn::StateKind::Buffer && e.tensor.dtype() == DType::F32)
    {
        let value = formula::entry(salt, gain, &e.name, e.tensor.dims());
        e.tensor.copy_from(&Tensor::from_vec(value, *e.tensor.shape())?)?;
    }
    let extractor = FeatureExtractor::new(model, Some(&indices))?;
    let maps = extractor.forward(x, &mut Context::eval())?;
    for (i, ((level, info), map)) in levels.iter().zip(extractor.feature_info()).zip(maps).enumerate() {
        let map = map.to_nchw()?;
        let part = CasePart { case, json: level, slack: 0.0 };
        let facts = serde_json::json!([info.channels, info.reduction, map.dims()]);
        let expected = serde_json::json!([level["channels"], level["reduction"], level["shape"]]);
        if facts != expected {
            return Err(
                format!("{}: channels, reduction, shape {facts}, expected {expected}", info.module).into()
            );
        }
        part.probe_here(&info.module, &format!("probe/level{i}"), &map)?;
    }
    Ok(())
}

/// Section of a case: values and their tolerances.
struct CasePart<'a> {
    case: &'a GoldenCase<'a>,
    json: &'a Value,
    /// Added to the tolerance of gradients, relative to their norm.
    slack: f64,
}

impl CasePart<'_> {
    /// Compares with the tensor named under `key`.
    fn compare(&self, key: &str, got: &Tensor) -> Result<(), BoxError> {
        let name = self.json[key].as_str().ok_or_else(|| format!("no {key}"))?;
        Ok(GoldenCase { topic: self.case.topic, json: self.json }
            .check_named(name, got)
            .map_err(|e| e.replacen("(no id)", self.case.id(), 1))?)
    }

    /// Compares with the tensor under `map.name`, if there is one.
    fn compare_full(&self, map: &str, name: &str, got: &Tensor) -> Result<(), BoxError> {
        let Some(stored) = self.json[map][name].as_str() else { return Ok(()) };
        Ok(GoldenCase { topic: self.case.topic, json: self.json }
            .check_with_slack(stored, got, if map == "grads" { self.slack } else { 0.0 })
            .map_err(|e| e.replacen("(no id)", self.case.id(), 1))?)
    }

    fn number(&self, key: &str, got: f64, tolerance: &str) -> Result<(), BoxError> {
        let number = |key: &str| self.json[key].as_f64().ok_or_else(|| format!("no {key}"));
        within(key, got, number(key)?, number(tolerance)?)
    }

    /// Compares with the probe under `key`, which includes its tolerances.
    fn probe(&self, key: &str, salt: &str, got: &Tensor) -> Result<(), BoxError> {
        CasePart { json: &self.json[key], ..*self }.probe_here(key, salt, got)
    }

    fn probe_here(&self, what: &str, salt: &str, got: &Tensor) -> Result<(), BoxError> {
        if let Some(shape) = self.json["shape"].as_array()
            && !shape.iter().map(Value::as_u64).eq(got.dims().iter().map(|d| Some(*d as u64)))
        {
            return Err(format!("{what}: shape {:?}, expected {:?}", got.dims(), shape).into());
        }
        let keys = ["l2", "sum", "dot"];
        let expected = serde_json::json!(keys.map(|key| &self.json[key]));
        self.within(what, &expected, &serde_json::json!(keys.map(|key| &self.json["tol"][key])), salt, got)
    }

    /// Compares with a probe stored as a list: three values and their tolerances.
    fn probe_list(&self, name: &str, list: &Value, got: &Tensor) -> Result<(), BoxError> {
        self.within(name, list, &list[3], &format!("probe/{name}"), got)
    }

    fn within(
        &self,
        what: &str,
        expected: &Value,
        atol: &Value,
        salt: &str,
        got: &Tensor,
    ) -> Result<(), BoxError> {
        let number = |v: &Value| v.as_f64().ok_or_else(|| format!("{what}: no probe"));
        // Bounds on the change of the norm, the sum and the dot product for an error of `slack` times the norm.
        let (slack, root) = (self.slack * number(&expected[0])?, (got.numel() as f64).sqrt());
        let reach = [slack, slack * root, slack * root / 3f64.sqrt()];
        for (i, got) in probes(salt, got)?.into_iter().enumerate() {
            let name = format!("{what}.{}", ["l2", "sum", "dot"][i]);
            within(&name, got, number(&expected[i])?, number(&atol[i])? + reach[i])?;
        }
        Ok(())
    }
}

/// L2 norm, sum, and dot product with a formula tensor.
fn probes(salt: &str, t: &Tensor) -> Result<[f64; 3], BoxError> {
    let all = values(t)?;
    let squares: f64 = all.iter().map(|v| v * v).sum();
    let dot = all.iter().enumerate().map(|(i, v)| v * formula::v(salt, i as u32)).sum();
    Ok([squares.sqrt(), all.iter().sum(), dot])
}

fn values(t: &Tensor) -> fornax_engine::Result<Vec<f64>> {
    t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec::<f64>()
}

fn within(what: &str, got: f64, expected: f64, atol: f64) -> Result<(), BoxError> {
    if (got - expected).abs() <= atol + 1e-5 * expected.abs() {
        return Ok(());
    }
    Err(format!("{what}: got {got}, expected {expected} within {atol}").into())
}
