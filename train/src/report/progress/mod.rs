//! Progress on stderr: a bar on a terminal, plain lines otherwise.
mod bar;
mod download;
mod terminal_line;
mod time_left;

pub use download::DownloadProgress;

use super::{UpdateMetrics, rollback_event, thousands};
use crate::Result;
use crate::callbacks::{Callback, EpochBegin, EpochEnd, EvaluatedWeights, Rollback, TestBegin, TrainSummary};
use crate::data::header_check::HeaderCheckProgress;
use crate::experiment::RunPlan;
use clap::ValueEnum;
use console::Term;
use std::io::{self, IsTerminal, Stderr};
use std::time::{Duration, Instant};
use terminal_line::TerminalLine;
use time_left::TimeLeft;

/// Progress display.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressMode {
    /// A bar on a terminal, lines otherwise
    Auto,
    /// A bar that redraws at most ten times a second
    Bar,
    /// Lines
    Plain,
    /// Lines of JSON
    Json,
    /// Errors only
    None,
}

/// Shows progress on stderr: in bar mode the epoch's bar, and a line that stays for each finished epoch.
pub struct Progress {
    mode: ProgressMode,
    /// The bar, in bar mode.
    line: TerminalLine<Stderr>,
    has_colour: bool,
    log_interval: u64,
    started: Instant,
    time_left: TimeLeft,
    /// Last epoch, for the display.
    last_epoch: u32,
    /// Training metrics of the current epoch, after its last update.
    trained: Option<TrainSummary>,
    /// Last line about the check of headers, in line modes.
    last_check: Option<Instant>,
}

/// Time after which a check of headers is reported, and the interval of its lines.
const FIRST_CHECK_REPORT: Duration = Duration::from_secs(1);
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Columns of a terminal that does not report its width.
const DEFAULT_WIDTH: u16 = 80;

impl Progress {
    /// Creates a progress display; in line modes it writes a line every `log_interval` updates.
    pub fn new(mode: ProgressMode, log_interval: u64) -> Progress {
        let mode = match mode {
            ProgressMode::Auto if io::stderr().is_terminal() => ProgressMode::Bar,
            ProgressMode::Auto => ProgressMode::Plain,
            chosen => chosen,
        };
        Progress {
            mode,
            line: TerminalLine::new(io::stderr()),
            has_colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            log_interval,
            started: Instant::now(),
            time_left: TimeLeft::default(),
            last_epoch: 0,
            trained: None,
            last_check: None,
        }
    }

    fn write(&mut self, text: &str, event: impl FnOnce() -> serde_json::Value) {
        match self.mode {
            ProgressMode::Bar => self.line.write_above(text),
            ProgressMode::Plain => message!("{text}"),
            ProgressMode::Json => message!("{}", event()),
            ProgressMode::Auto | ProgressMode::None => {}
        }
    }

    fn now(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

impl Callback for Progress {
    fn on_plan(&mut self, plan: &RunPlan) -> Result<()> {
        self.write(&plan.to_string(), || event("plan", plan));
        Ok(())
    }

    fn on_header_check(&mut self, progress: &HeaderCheckProgress) -> Result<()> {
        let HeaderCheckProgress { checked, total, elapsed } = *progress;
        if elapsed < FIRST_CHECK_REPORT {
            return Ok(());
        }
        let text =
            format!("checking image headers  {}/{}", thousands(checked as u64), thousands(total as u64));
        match self.mode {
            ProgressMode::Bar if self.line.is_due() => {
                self.line.draw(&text.chars().take(width()).collect::<String>())
            }
            ProgressMode::Bar => {}
            _ if self.last_check.is_some_and(|last| last.elapsed() < CHECK_INTERVAL) => {}
            _ => {
                self.last_check = Some(Instant::now());
                self.write(
                    &text,
                    || serde_json::json!({ "event": "header_check", "checked": checked, "total": total }),
                );
            }
        }
        Ok(())
    }

    fn on_epoch_begin(&mut self, event: &EpochBegin) -> Result<()> {
        self.last_epoch = event.epochs.saturating_sub(1);
        if self.mode == ProgressMode::Bar && self.line.is_due() {
            self.line.draw(&bar::waiting_line(event, width(), self.has_colour));
        }
        self.time_left.epoch_begins(event.epochs, event.batches, event.first_batch, self.now());
        Ok(())
    }

    fn on_batch_end(&mut self, metrics: &UpdateMetrics) -> Result<()> {
        if self.mode == ProgressMode::Bar {
            if self.line.is_due() {
                let left = self.time_left.seconds(metrics.epoch, metrics.batch, self.now());
                self.line.draw(&bar::bar_line(metrics, left, width(), self.has_colour));
            }
        } else if metrics.update.is_multiple_of(self.log_interval) {
            self.write(&metrics.line(), || event("update", metrics));
        }
        Ok(())
    }

    fn on_train_summary(&mut self, summary: &TrainSummary) -> Result<()> {
        self.trained = Some(*summary);
        self.time_left.updates_end(self.now());
        Ok(())
    }

    fn on_test_begin(&mut self, event: &TestBegin) -> Result<()> {
        let weights = match event.weights {
            EvaluatedWeights::Model => "",
            EvaluatedWeights::Ema => " of the EMA weights",
        };
        if self.mode == ProgressMode::Bar {
            let text = format!("epoch {}/{}  validation{weights}", event.epoch, self.last_epoch);
            self.line.draw(&text.chars().take(width()).collect::<String>());
        }
        Ok(())
    }

    fn on_epoch_end(&mut self, end: &EpochEnd) -> Result<()> {
        match (end.metrics, self.trained.take()) {
            (Some(metrics), _) => self.write(&metrics.line(end.best), || event("epoch", metrics)),
            // An epoch that --val-interval skips.
            (None, Some(TrainSummary { epoch, loss, lr })) => {
                self.write(
                    &format!("epoch {epoch}  loss {loss:.4}"),
                    || serde_json::json!({ "event": "epoch", "epoch": epoch, "train_loss": loss, "lr": lr }),
                );
            }
            (None, None) => {}
        }
        self.time_left.epoch_ends(self.now());
        Ok(())
    }

    fn on_rollback(&mut self, event: &Rollback) -> Result<()> {
        if self.mode == ProgressMode::Json {
            message!("{}", rollback_event(event));
        }
        Ok(())
    }

    fn on_message(&mut self, text: &str) -> Result<()> {
        self.write(text, || serde_json::json!({ "event": "note", "text": text }));
        Ok(())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.line.clear();
    }
}

/// JSON event with the fields of its metrics.
pub(super) fn event(kind: &str, metrics: &impl serde::Serialize) -> serde_json::Value {
    let mut fields = serde_json::Map::from_iter([("event".to_string(), kind.into())]);
    if let Ok(serde_json::Value::Object(metrics)) = serde_json::to_value(metrics) {
        fields.extend(metrics);
    }
    fields.into()
}

/// Columns for the line: one less than the terminal has, which may change at any time.
fn width() -> usize {
    let columns = Term::stderr().size_checked().map_or(DEFAULT_WIDTH, |(_, columns)| columns);
    usize::from(columns.saturating_sub(1))
}
