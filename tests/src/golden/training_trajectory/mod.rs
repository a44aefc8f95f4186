//! Small residual networks trained on the digits, step by step: loss, gradient norm, learning rate, final weights, evaluation.
pub mod command_line;
mod given_batches;

use super::ops_activation::named;
use super::{GoldenCase, Outcome, Topic, formula};
use fornax::ema::{Ema, EmaOptions};
use fornax::optim::{Optimizer, OptimizerOptions, create_optimizer, parameters};
use fornax::schedule::{ScheduleOptions, create_scheduler};
use fornax_engine::{DType, GradClip, GradientRule, Tensor, no_grad};
use fornax_nn::loss::{BinaryCrossEntropy, CrossEntropy, Loss, top_k_correct};
use fornax_nn::models::{ResNet, ResNetConfig, ResNetStem};
use fornax_nn::{Context, ModelOptions, Module, move_to, named_parameters, state_dict};
use given_batches::GivenBatches;
use serde_json::Value;

/// Runs every case of the topic, with the library's parts in a loop of its own.
pub fn check(topic: &Topic) -> Outcome {
    check_cases(topic, |case| TrainingRun::new(case)?.check())
}

fn check_cases(topic: &Topic, check: impl Fn(&GoldenCase) -> Result<(), String>) -> Outcome {
    let mut failures = vec![];
    let mut passed = 0;
    for case in topic.cases()? {
        match check(&case) {
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

/// Learning rate, loss and gradient norm of each update.
#[derive(Default)]
struct Trajectory {
    lr: Vec<f64>,
    loss: Vec<f64>,
    grad_norm: Vec<f64>,
}

/// Differences between a loop of its own and a run of the trainer.
trait Protocol {
    /// Images and targets of a batch, counted over the run.
    fn batch(&self, index: usize) -> Result<(Tensor, Tensor), String>;

    /// EMA decay of an update, counted from 1.
    fn ema_decay(&self, update: u64) -> Option<f64>;

    /// Lookahead's slow weights replace the weights at the end of an epoch.
    fn syncs_lookahead(&self) -> bool;
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
                    Some(Ema::new(&model, average, options, case.topic.device)?)
                }
                None => None,
            };
            Ok(TrainingRun { case, config, model, ema, images, labels })
        };
        run().map_err(|e| format!("{}: {e}", case.id()))
    }

    fn check(mut self) -> Result<(), String> {
        let given = GivenBatches::new(&self)?;
        let trajectory = self.train(&given)?;
        trajectory.check(self.case, &Trajectory::of_file(self.case)?)?;
        self.compare_weights()?;
        self.evaluate()
    }

    fn train(&mut self, protocol: &dyn Protocol) -> Result<Trajectory, String> {
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
        let loss = self.loss()?;
        let say_own = |e: fornax::Error| format!("{}: {e}", case.id());
        let mut trajectory = Trajectory::default();
        for update in 0..number(c, "epochs")? as u64 * per_epoch {
            let lr = schedule.lr_at((update / per_epoch) as u32, update, per_epoch);
            named_parameters(&self.model).iter().for_each(|(_, p)| p.zero_grad());
            let mut total = 0.0;
            for micro in 0..accumulate {
                let (x, target) = protocol.batch(update as usize * accumulate + micro)?;
                let logits = self.model.forward(&x, &mut Context::train()).map_err(say)?;
                let loss = loss.forward(&logits, &target).map_err(say)?;
                total += loss.item().map_err(say)? / accumulate as f64;
                loss.mul_scalar(1.0 / accumulate as f64).and_then(|l| l.backward()).map_err(say)?;
            }
            trajectory.lr.push(lr);
            trajectory.loss.push(total);
            trajectory.grad_norm.push(self.gradient_norm().map_err(say)?);
            optimizer.update(lr).map_err(say_own)?;
            if let Some((ema, decay)) = self.ema.as_mut().zip(protocol.ema_decay(update + 1)) {
                ema.set_decay(decay).map_err(say_own)?;
                ema.update().map_err(say)?;
                ema.finish_update().map_err(say_own)?;
            }
            if (update + 1).is_multiple_of(per_epoch) && protocol.syncs_lookahead() {
                optimizer.sync_lookahead().map_err(say_own)?;
            }
        }
        Ok(trajectory)
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
        let clip = self.config["clip_grad"].as_f64().map(|limit| GradClip::Norm(limit as f32));
        let rule = GradientRule { scaling: None, clip };
        let momentum = Some(number(self.config, "momentum")?);
        let options = OptimizerOptions { momentum, ..OptimizerOptions::default() };
        // As in timm, an optimizer without momentum leaves it out.
        create_optimizer(name, parameters.clone(), &options, rule)
            .or_else(|_| create_optimizer(name, parameters, &OptimizerOptions::default(), rule))
            .map_err(say)
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
        let evaluated =
            [("eval", Some(&self.model as &dyn Module)), ("ema", self.ema.as_ref().map(Ema::model))];
        for (which, model) in evaluated {
            let Some(model) = model else { continue };
            let (logits, got) = self.evaluation(model)?;
            case.check_named(case.json[format!("{which}_logits")].as_str().unwrap_or_default(), &logits)?;
            got.check(case, which, &Evaluated::of_file(case, which)?)?;
        }
        Ok(())
    }

    /// Logits of the evaluated rows, and their loss and accuracy.
    fn evaluation(&self, model: &dyn Module) -> Result<(Tensor, Evaluated), String> {
        let say = |e: fornax_engine::Error| format!("{}: {e}", self.case.id());
        let rows = eval_range(self.case)?;
        let (x, target) = (
            self.images.narrow(0, rows.start, rows.len()).map_err(say)?,
            self.labels.narrow(0, rows.start, rows.len()).map_err(say)?,
        );
        let logits = no_grad(|| model.forward(&x, &mut Context::eval())).map_err(say)?;
        let loss = logits.cross_entropy(&target, 0.0).and_then(|l| l.item()).map_err(say)?;
        let top1 = 100.0 * top_k_correct(&logits, &target, 1).map_err(say)? as f64 / rows.len() as f64;
        Ok((logits, Evaluated { loss, top1 }))
    }
}

/// Loss and accuracy in percent of an evaluation.
struct Evaluated {
    loss: f64,
    top1: f64,
}

impl Evaluated {
    fn of_file(case: &GoldenCase, which: &str) -> Result<Evaluated, String> {
        let of = |what: &str| number(case.json, &format!("{which}_{what}"));
        Ok(Evaluated { loss: of("loss")?, top1: of("top1")? })
    }

    fn check(&self, case: &GoldenCase, which: &str, expected: &Evaluated) -> Result<(), String> {
        close(case, which, 0, self.loss, expected.loss, number(case.json, "eval_loss_atol")?)?;
        close(case, which, 0, self.top1, expected.top1, number(case.json, "eval_top1_atol")?)
    }
}

/// Dataset rows of the evaluation.
fn eval_range(case: &GoldenCase) -> Result<std::ops::Range<usize>, String> {
    let range = case.json["config"]["eval_range"].as_array();
    let bound = |i: usize| Some(range?.get(i)?.as_u64()? as usize);
    let range = bound(0).zip(bound(1)).map(|(start, end)| start..end);
    range.ok_or_else(|| format!("{}: no eval_range", case.id()))
}

impl Trajectory {
    /// The trajectory in the file.
    fn of_file(case: &GoldenCase) -> Result<Trajectory, String> {
        Ok(Trajectory {
            lr: numbers(case, "lr")?,
            loss: numbers(case, "loss")?,
            grad_norm: numbers(case, "grad_norm")?,
        })
    }

    /// Compares with an expected trajectory, within the tolerances of the case.
    fn check(&self, case: &GoldenCase, expected: &Trajectory) -> Result<(), String> {
        let (loss_atol, norm_atol) = (numbers(case, "loss_atol")?, numbers(case, "grad_norm_atol")?);
        let (updates, of_file) = (self.loss.len(), expected.loss.len());
        let norms = self.grad_norm.len();
        if updates != of_file || updates == 0 || ![0, updates].contains(&norms) {
            return Err(format!("{}: {updates} updates, expected {of_file}", case.id()));
        }
        for i in 0..updates {
            close(case, "lr", i, self.lr[i], expected.lr[i], 1e-9)?;
            close(case, "loss", i, self.loss[i], expected.loss[i], loss_atol[i])?;
            // `fornax train` computes the norm only where it clips.
            if let Some(norm) = self.grad_norm.get(i) {
                close(case, "grad_norm", i, *norm, expected.grad_norm[i], norm_atol[i])?;
            }
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

fn number(json: &Value, key: &str) -> Result<f64, String> {
    json[key].as_f64().ok_or_else(|| format!("{key} is not a number"))
}

/// A list of numbers of a case.
fn numbers(case: &GoldenCase, key: &str) -> Result<Vec<f64>, String> {
    let list = case.json[key].as_array().ok_or_else(|| format!("{}: {key} is not a list", case.id()))?;
    Ok(list.iter().map(|value| value.as_f64().unwrap_or(f64::NAN)).collect())
}

fn close(
    case: &GoldenCase,
    what: &str,
    step: usize,
    got: f64,
    expected: f64,
    atol: f64,
) -> Result<(), String> {
    if (got - expected).abs() <= atol + 1e-5 * expected.abs() {
        return Ok(());
    }
    Err(format!("{}: {what} at step {step}: got {got}, expected {expected} within {atol}", case.id()))
}
