//! TensorBoard event files of a run.
mod event_file;
mod protobuf;
mod summary;
mod tfrecord;

pub use event_file::{EventFile, event_files, is_event_file, truncate_events, wall_time};
pub use summary::{HyperParameter, SessionStatus, SummaryValue};

use super::UpdateMetrics;
use crate::Result;
use crate::callbacks::{Callback, EpochEnd, EvaluatedWeights, Rollback, TestSummary, TrainBegin, TrainEnd};
use crate::run_files::regular;
use crate::settings::Settings;
use fornax_engine::{DType, Device, no_grad};
use fornax_nn::named_parameters;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Callback that writes an event file into the run's folder. The step of every value is the number of finished updates.
pub struct TensorBoard {
    folder: PathBuf,
    file: EventFile,
    log_interval: u64,
    hparams: Vec<(String, HyperParameter)>,
    texts: Vec<(String, String)>,
    /// Finished updates.
    update: u64,
    epochs: u32,
    /// When the images that are shown were written.
    shown: [Option<SystemTime>; IMAGES.len()],
}

/// Images of the run's folder that are shown, by tag.
const IMAGES: [(&str, &str); 3] = [
    ("samples/train", "samples/train.png"),
    ("samples/validation", "samples/validation.png"),
    ("confusion_matrix", "plots/confusion_matrix.png"),
];
/// Scalars that measure a run in the hparams plugin.
const METRICS: [&str; 4] =
    ["validation/top1", "validation/loss", "validation_ema/top1", "validation_ema/loss"];

impl TensorBoard {
    /// Creates an event file in a run's folder, in which `update` updates are finished; later events of earlier files are cut off. Losses
    /// and the like are written every `log_interval` updates. `plan` is the description of the run.
    pub fn create(
        folder: &Path,
        log_interval: u64,
        update: u64,
        settings: &Settings,
        plan: &str,
    ) -> Result<TensorBoard> {
        truncate_events(folder, update)?;
        let code = |text: &str| format!("```\n{}\n```", text.trim_end());
        Ok(TensorBoard {
            folder: folder.into(),
            file: EventFile::create(folder)?,
            log_interval,
            hparams: settings.given().into_iter().map(hyper_parameter).collect(),
            texts: vec![("args.yaml".into(), code(&settings.to_yaml())), ("plan".into(), code(plan))],
            update,
            epochs: 0,
            shown: [None; IMAGES.len()],
        })
    }

    /// Images of the run's folder that were written since the last call.
    fn new_images(&mut self) -> Vec<SummaryValue> {
        let mut values = vec![];
        for ((tag, file), shown) in IMAGES.iter().zip(&mut self.shown) {
            let path = self.folder.join(file);
            let written = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
            if written.is_some() && written != *shown {
                *shown = written;
                values.extend(regular::read(&path).ok().and_then(|png| SummaryValue::png(tag, &png)));
            }
        }
        values
    }

    /// Numbers of the epoch, new images, and a histogram of each parameter.
    fn epoch_values(&mut self, event: &EpochEnd) -> Result<Vec<SummaryValue>> {
        let mut values = vec![SummaryValue::scalar("epoch", f64::from(event.epoch))];
        if let Some(metrics) = event.metrics {
            values.push(SummaryValue::scalar("train/epoch_loss", metrics.train_loss));
        }
        values.extend(self.new_images());
        for (name, tensor) in named_parameters(event.model) {
            let weights = no_grad(|| tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.to_vec::<f32>())?;
            values.extend(SummaryValue::histogram(&format!("weights/{name}"), &weights));
        }
        Ok(values)
    }
}

impl Callback for TensorBoard {
    fn on_train_begin(&mut self, event: &TrainBegin) -> Result<()> {
        self.epochs = event.epochs;
        let time = wall_time();
        let texts = self.texts.iter().map(|(tag, text)| SummaryValue::text(tag, text));
        let hparams = [
            SummaryValue::experiment(&self.hparams, &METRICS, time),
            SummaryValue::session_start(&self.hparams, time),
        ];
        self.file.write(self.update, texts.chain(hparams).collect())
    }

    fn on_batch_end(&mut self, metrics: &UpdateMetrics) -> Result<()> {
        self.update = metrics.update;
        if !metrics.is_point(self.log_interval) {
            return Ok(());
        }
        let memory = &metrics.memory;
        let always = [
            ("train/loss", metrics.loss),
            ("train/lr", metrics.lr),
            ("throughput/images_per_second", metrics.images_per_second),
            ("throughput/data_wait", metrics.data_wait),
            ("memory/allocated", memory.allocated as f64),
            ("memory/peak_allocated", memory.peak_allocated as f64),
            ("memory/reserved", memory.reserved as f64),
        ];
        let computed = [
            ("train/grad_norm", metrics.grad_norm.map(f64::from)),
            ("train/loss_scale", metrics.loss_scale.map(f64::from)),
        ];
        let computed = computed.into_iter().filter_map(|(tag, value)| Some((tag, value?)));
        let values = always.into_iter().chain(computed).map(|(tag, value)| SummaryValue::scalar(tag, value));
        self.file.write(metrics.update, values.collect())
    }

    fn on_test_summary(&mut self, summary: &TestSummary) -> Result<()> {
        let folder = match summary.weights {
            EvaluatedWeights::Model => "validation",
            EvaluatedWeights::Ema => "validation_ema",
        };
        let evaluation = summary.evaluation;
        let values = [("loss", evaluation.loss), ("top1", evaluation.top1), ("top5", evaluation.top5)];
        let scalar = |(name, value)| SummaryValue::scalar(&format!("{folder}/{name}"), value);
        self.file.write(self.update, values.into_iter().map(scalar).collect())
    }

    fn on_epoch_end(&mut self, event: &EpochEnd) -> Result<()> {
        let values = self.epoch_values(event)?;
        self.file.write(self.update, values)
    }

    /// Cuts off the events of the updates that are trained again.
    fn on_rollback(&mut self, event: &Rollback) -> Result<()> {
        self.update = event.state.update;
        self.file.discard_pending();
        truncate_events(&self.folder, self.update)
    }

    fn on_train_end(&mut self, event: &TrainEnd) -> Result<()> {
        let is_complete = event.state.epoch >= self.epochs || event.stop_reason.is_some();
        let status = if is_complete { SessionStatus::Success } else { SessionStatus::Failure };
        let mut values = self.new_images();
        values.push(SummaryValue::session_end(status, wall_time()));
        self.file.write(self.update, values)
    }
}

/// A setting as a hyper-parameter; lists are text.
fn hyper_parameter((name, value): (String, Value)) -> (String, HyperParameter) {
    let value = match value {
        Value::Number(number) => HyperParameter::Number(number.as_f64().unwrap_or(f64::NAN)),
        Value::Bool(flag) => HyperParameter::Bool(flag),
        Value::String(text) => HyperParameter::Text(text),
        other => HyperParameter::Text(other.to_string()),
    };
    (name, value)
}
