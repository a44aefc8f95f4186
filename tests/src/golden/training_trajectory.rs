//! Small residual networks trained on the digits, step by step: loss, gradient norm, learning rate, final weights, evaluation.
use super::ops_activation::named;
use super::{GoldenCase, Outcome, Topic, formula};
use fornax::ema::{Ema, EmaOptions};
use fornax::optim::{Optimizer, OptimizerOptions, create_optimizer, parameters};
use fornax::schedule::{ScheduleOptions, create_scheduler};
use fornax_engine::{DType, GradClip, GradientRule, Tensor, no_grad};
use fornax_nn::loss::{BinaryCrossEntropy, CrossEntropy, Loss, mixup_target, top_k_correct};
use fornax_nn::models::{ResNet, ResNetConfig, ResNetStem};
use fornax_nn::{Context, ModelOptions, Module, move_to, named_parameters, state_dict};
use serde_json::Value;

/// Runs every case of the topic.
pub fn check(topic: &Topic) -> Outcome {
    let mut failures = vec![];
    let mut passed = 0;
    for case in topic.cases()? {
        match TrainingRun::new(&case).and_then(|run| run.check()) {
            Ok(()) => passed += 1,
            Err(e) => failures.push(e),
        }
    }
    if failures.is_empty() { Ok(passed) } else { Err(failures.join("\n")) }
}

struct TrainingRun<'a> {
    case: &'a GoldenCase<'a>,
    config: &'a Value,
    model: ResNet,
    ema: Option<Ema>,
    images: Tensor,
    labels: Tensor,
}

impl<'a> TrainingRun<'a> {
    fn new(case: &'a GoldenCase<'a>) -> Result<TrainingRun<'a>, String> {
        let config = &case.json["config"];
        let run = || -> Result<TrainingRun<'a>, Box<dyn std::error::Error>> {
            let model = network(case, config)?;
            let salt = config["salt"].as_str().ok_or("no salt")?;
            formula::fill(&model, salt, number(config, "gain")?)?;
            move_to(&model, &case.topic.device)?;
            let (mean, std) = (number(config, "mean")?, number(config, "std")?);
            let raw = case.topic.tensor("digits/images")?;
            let pixels: Vec<f32> = raw.data.iter().map(|p| ((p / 16.0 - mean) / std) as f32).collect();
            // With one channel NCHW and NHWC are the same.
            let images = Tensor::from_vec(pixels, [raw.shape[0], raw.shape[2], raw.shape[3], 1])?
                .to_device(&case.topic.device)?;
            let labels = case.topic.tensor("digits/labels")?.to_tensor(DType::I64, &case.topic.device)?;
            let ema = match config["ema_decay"].as_f64() {
                Some(decay) => {
                    let options = EmaOptions { decay, ..EmaOptions::default() };
                    let average = Box::new(network(case, config)?);
                    let mut ema = Ema::new(&model, average, options, case.topic.device)?;
                    // The file was made with a constant decay, so that the first update does not copy.
                    ema.set_decay(decay)?;
                    Some(ema)
                }
                None => None,
            };
            Ok(TrainingRun { case, config, model, ema, images, labels })
        };
        run().map_err(|e| format!("{}: {e}", case.id()))
    }

    fn check(&self) -> Result<(), String> {
        self.train()?;
        self.compare_weights()?;
        self.evaluate()
    }

    fn train(&self) -> Result<(), String> {
        let (case, c) = (self.case, self.config);
        let say = |e: fornax_engine::Error| format!("{}: {e}", case.id());
        let options = ScheduleOptions {
            lr: number(c, "lr")?,
            warmup_lr: number(c, "warmup_lr")?,
            min_lr: number(c, "min_lr")?,
            epochs: number(c, "epochs")? as u32,
            warmup_epochs: number(c, "warmup_epochs")? as u32,
            on_updates: true,
            ..ScheduleOptions::default()
        };
        let schedule = create_scheduler("cosine", &options).map_err(|e| format!("{}: {e}", case.id()))?;
        let optimizer = self.optimizer()?;
        let per_epoch = number(c, "updates_per_epoch")? as u64;
        let accumulate = number(c, "grad_accum_steps")? as usize;
        let batches = case.topic.tensor(case.json["batches"].as_str().unwrap_or_default())?;
        let lists = |key: &str| case.json[key].as_array().cloned().unwrap_or_default();
        let (lrs, losses, norms) = (lists("lr"), lists("loss"), lists("grad_norm"));
        let (loss_atol, norm_atol) = (lists("loss_atol"), lists("grad_norm_atol"));
        if losses.len() * accumulate != batches.shape[0] {
            return Err(format!("{}: {} losses for {} batches", case.id(), losses.len(), batches.shape[0]));
        }
        let loss = self.loss()?;
        let lam = lists("lam");
        let say_own = |e: fornax::Error| format!("{}: {e}", case.id());
        for update in 0..losses.len() {
            let lr = schedule.lr_at((update as u64 / per_epoch) as u32, update as u64, per_epoch);
            close(case, "lr", update, lr, &lrs[update], 1e-9)?;
            named_parameters(&self.model).iter().for_each(|(_, p)| p.zero_grad());
            let mut total = 0.0;
            for micro in 0..accumulate {
                let rows =
                    &batches.data[(update * accumulate + micro) * batches.shape[1]..][..batches.shape[1]];
                let (mut x, mut target) = self.rows(rows).map_err(say)?;
                if let Some(lam) = lam.get(update * accumulate + micro).and_then(Value::as_f64) {
                    (x, target) = mixed(&x, &target, lam, number(c, "smoothing")?).map_err(say)?;
                }
                let logits = self.model.forward(&x, &mut Context::train()).map_err(say)?;
                let loss = loss.forward(&logits, &target).map_err(say)?;
                total += loss.item().map_err(say)? / accumulate as f64;
                loss.mul_scalar(1.0 / accumulate as f64).and_then(|l| l.backward()).map_err(say)?;
            }
            close(case, "loss", update, total, &losses[update], loss_atol[update].as_f64().unwrap_or(0.0))?;
            let norm = self.gradient_norm().map_err(say)?;
            close(
                case,
                "grad_norm",
                update,
                norm,
                &norms[update],
                norm_atol[update].as_f64().unwrap_or(0.0),
            )?;
            optimizer.update(lr).map_err(say_own)?;
            if let Some(ema) = &self.ema {
                ema.update().map_err(say)?;
                ema.finish_update().map_err(say_own)?;
            }
        }
        Ok(())
    }

    fn loss(&self) -> Result<Box<dyn Loss>, String> {
        let smoothing = number(self.config, "smoothing")?;
        match self.config["loss"].as_str() {
            Some("label_smoothing" | "soft_target") => Ok(Box::new(CrossEntropy { smoothing })),
            Some("bce") => Ok(Box::new(BinaryCrossEntropy { smoothing, ..BinaryCrossEntropy::default() })),
            other => Err(format!("{}: the loss {other:?} is not known to the test", self.case.id())),
        }
    }

    fn optimizer(&self) -> Result<Optimizer, String> {
        let parameters = parameters(&self.model, number(self.config, "weight_decay")?);
        let say = |e: fornax::Error| format!("{}: {e}", self.case.id());
        let name = self.config["opt"].as_str().ok_or("no optimizer")?;
        let momentum = (name != "adamw").then_some(number(self.config, "momentum")?);
        let options = OptimizerOptions { momentum, ..OptimizerOptions::default() };
        let clip = self.config["clip_grad"].as_f64().map(|limit| GradClip::Norm(limit as f32));
        create_optimizer(name, parameters, &options, GradientRule { scaling: None, clip }).map_err(say)
    }

    fn rows(&self, rows: &[f64]) -> fornax_engine::Result<(Tensor, Tensor)> {
        let parts = |t: &Tensor| -> fornax_engine::Result<Tensor> {
            let rows: Vec<Tensor> =
                rows.iter().map(|r| t.narrow(0, *r as usize, 1)).collect::<Result<_, _>>()?;
            Tensor::concat(&rows.iter().collect::<Vec<_>>(), 0)
        };
        Ok((parts(&self.images)?, parts(&self.labels)?))
    }

    fn gradient_norm(&self) -> fornax_engine::Result<f64> {
        let mut sum = 0.0;
        for (_, p) in named_parameters(&self.model) {
            let grad = p.grad().expect("the loss depends on every parameter");
            sum += grad.read::<f32>()?.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
        }
        Ok(sum.sqrt())
    }

    fn compare_weights(&self) -> Result<(), String> {
        let state = state_dict::state_dict(&self.model).map_err(|e| e.to_string())?;
        let names = self.case.roles("final");
        if names.len() < named_parameters(&self.model).len() {
            return Err(format!("{}: only {} final tensors", self.case.id(), names.len()));
        }
        for name in names {
            let (_, tensor) = state
                .iter()
                .find(|(n, _)| n == name)
                .ok_or_else(|| format!("{}: no {name}", self.case.id()))?;
            self.case.check("final", name, tensor)?;
        }
        Ok(())
    }

    fn evaluate(&self) -> Result<(), String> {
        let case = self.case;
        let say = |e: fornax_engine::Error| format!("{}: {e}", case.id());
        let range =
            self.config["eval_range"].as_array().ok_or_else(|| format!("{}: no eval_range", case.id()))?;
        let bound = |i: usize| range[i].as_u64().unwrap_or_default() as usize;
        let (start, len) = (bound(0), bound(1) - bound(0));
        let (x, target) = (
            self.images.narrow(0, start, len).map_err(say)?,
            self.labels.narrow(0, start, len).map_err(say)?,
        );
        let evaluated =
            [("eval", Some(&self.model as &dyn Module)), ("ema", self.ema.as_ref().map(Ema::model))];
        for (which, model) in evaluated {
            let Some(model) = model else { continue };
            let expected = |what: &str| &case.json[format!("{which}_{what}")];
            let logits = no_grad(|| model.forward(&x, &mut Context::eval())).map_err(say)?;
            case.check_named(expected("logits").as_str().unwrap_or_default(), &logits)?;
            let loss = logits.cross_entropy(&target, 0.0).and_then(|l| l.item()).map_err(say)?;
            close(case, which, 0, loss, expected("loss"), number(case.json, "eval_loss_atol")?)?;
            let top1 = 100.0 * top_k_correct(&logits, &target, 1).map_err(say)? as f64 / len as f64;
            close(case, which, 0, top1, expected("top1"), number(case.json, "eval_top1_atol")?)?;
        }
        Ok(())
    }
}

/// The small network of a case, with default weights.
fn network(case: &GoldenCase, config: &Value) -> Result<ResNet, Box<dyn std::error::Error>> {
    let widths: Vec<usize> = config["widths"]
        .as_array()
        .ok_or("no widths")?
        .iter()
        .filter_map(Value::as_u64)
        .map(|w| w as usize)
        .collect();
    let depths = vec![1; widths.len()];
    Ok(ResNet::new(
        &ResNetConfig {
            stem: ResNetStem::Small,
            widths: &widths,
            depths: &depths,
            activation: named(case, config["act"].as_str().ok_or("no act")?)?,
            depthwise_conv2: config["depthwise_conv2"].as_bool().unwrap_or(false),
            ..ResNetConfig::BASIC
        },
        &ModelOptions { num_classes: 10, in_chans: 1, ..ModelOptions::default() },
    )?)
}

/// Mixup of a batch with itself in reverse order.
fn mixed(x: &Tensor, target: &Tensor, lam: f64, smoothing: f64) -> fornax_engine::Result<(Tensor, Tensor)> {
    let x = x.mul_scalar(lam)?.add(&x.flip(0)?.mul_scalar(1.0 - lam)?)?;
    Ok((x, mixup_target(target, 10, lam, smoothing)?))
}

fn number(json: &Value, key: &str) -> Result<f64, String> {
    json[key].as_f64().ok_or_else(|| format!("{key} is not a number"))
}

fn close(
    case: &GoldenCase,
    what: &str,
    step: usize,
    got: f64,
    expected: &Value,
    atol: f64,
) -> Result<(), String> {
    let expected = expected.as_f64().unwrap_or(f64::NAN);
    if (got - expected).abs() <= atol + 1e-5 * expected.abs() {
        return Ok(());
    }
    Err(format!("{}: {what} at step {step}: got {got}, expected {expected} within {atol}", case.id()))
}
