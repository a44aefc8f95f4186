//! Metrics as CSV and JSON Lines.
use super::{Callback, EpochEnd, Rollback, TrainBegin, TrainEnd};
use crate::Result;
use crate::checkpoint::durable;
use crate::report::{UpdateMetrics, rollback_event, summary_csv};
use crate::trainer::TrainerState;
use std::path::PathBuf;

/// CSV file of the metrics of each epoch, with timm's columns. It is replaced after every epoch, so that a resumed run does not repeat rows.
#[derive(Clone, Debug)]
pub struct CsvLogger {
    path: PathBuf,
}

impl CsvLogger {
    /// Creates the callback for a file.
    pub fn new(path: impl Into<PathBuf>) -> CsvLogger {
        CsvLogger { path: path.into() }
    }

    fn write(&self, state: &TrainerState) -> Result<()> {
        durable::write(&self.path, summary_csv(&state.history).as_bytes())
    }
}

impl Callback for CsvLogger {
    fn on_train_begin(&mut self, event: &TrainBegin) -> Result<()> {
        self.write(event.state)
    }

    fn on_epoch_end(&mut self, event: &EpochEnd) -> Result<()> {
        self.write(event.state)
    }

    /// Writes the file once more: the disk may have been full after the last epoch.
    fn on_train_end(&mut self, event: &TrainEnd) -> Result<()> {
        self.write(event.state)
    }
}

/// JSON Lines file of the metrics of each update and each epoch of this process, and of its rollbacks, in the form of `metrics.jsonl`. It is
/// replaced after every epoch.
#[derive(Clone, Debug)]
pub struct JsonlLogger {
    path: PathBuf,
    lines: String,
}

impl JsonlLogger {
    /// Creates the callback for a file.
    pub fn new(path: impl Into<PathBuf>) -> JsonlLogger {
        JsonlLogger { path: path.into(), lines: String::new() }
    }

    fn add(&mut self, kind: &str, metrics: &impl serde::Serialize) {
        let mut event = serde_json::json!({ "event": kind });
        let metrics = serde_json::to_value(metrics).expect("plain values have a JSON form");
        if let (Some(event), serde_json::Value::Object(metrics)) = (event.as_object_mut(), metrics) {
            event.extend(metrics);
        }
        self.lines += &format!("{event}\n");
    }
}

impl Callback for JsonlLogger {
    fn on_batch_end(&mut self, metrics: &UpdateMetrics) -> Result<()> {
        self.add("update", metrics);
        Ok(())
    }

    fn on_epoch_end(&mut self, event: &EpochEnd) -> Result<()> {
        if let Some(metrics) = event.metrics {
            self.add("epoch", metrics);
        }
        durable::write(&self.path, self.lines.as_bytes())
    }

    fn on_rollback(&mut self, event: &Rollback) -> Result<()> {
        self.lines += &format!("{}\n", rollback_event(event));
        Ok(())
    }
}
