//! Progress on stderr: a bar on a terminal, plain lines otherwise.
use super::{Callback, EpochMetrics, UpdateMetrics, thousands};
use crate::Result;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};

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

/// Shows progress on stderr.
pub struct Progress {
    mode: ProgressMode,
    bar: ProgressBar,
    log_interval: u64,
}

impl Progress {
    /// Creates a progress display; in line modes it writes a line every `log_interval` updates.
    pub fn new(mode: ProgressMode, log_interval: u64) -> Progress {
        let mode = match mode {
            ProgressMode::Auto if io::stderr().is_terminal() => ProgressMode::Bar,
            ProgressMode::Auto => ProgressMode::Plain,
            chosen => chosen,
        };
        let bar = if mode == ProgressMode::Bar { styled_bar() } else { ProgressBar::hidden() };
        Progress { mode, bar, log_interval }
    }

    fn write(&self, text: &str, event: impl FnOnce() -> serde_json::Value) {
        match self.mode {
            ProgressMode::Bar => self.bar.suspend(|| write_line(text)),
            ProgressMode::Plain => write_line(text),
            ProgressMode::Json => write_line(&event().to_string()),
            ProgressMode::Auto | ProgressMode::None => {}
        }
    }
}

impl Callback for Progress {
    fn on_update(&mut self, metrics: &UpdateMetrics) -> Result<()> {
        if self.mode == ProgressMode::Bar {
            if self.bar.length() != Some(metrics.batches as u64) {
                self.bar.set_length(metrics.batches as u64);
            }
            self.bar.set_prefix(format!("{}/{}", metrics.epoch + 1, metrics.epochs));
            let speed = thousands(metrics.images_per_second.round() as u64);
            let memory = super::bytes(metrics.memory.allocated as u64);
            self.bar.set_message(format!(
                "loss {:.4}  lr {:.2e}  {speed} images/s  memory {memory}",
                metrics.loss, metrics.lr
            ));
            self.bar.set_position(metrics.batch as u64);
        } else if metrics.update.is_multiple_of(self.log_interval) {
            self.write(&metrics.line(), || event("update", metrics));
        }
        Ok(())
    }

    fn on_epoch_end(&mut self, metrics: &EpochMetrics, best: bool) -> Result<()> {
        self.write(&metrics.line(best), || event("epoch", metrics));
        Ok(())
    }

    fn on_message(&mut self, text: &str) -> Result<()> {
        self.write(text, || serde_json::json!({ "event": "note", "text": text }));
        Ok(())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Progress of a download: a bar on a terminal, one line at the start otherwise.
pub struct DownloadProgress(ProgressBar);

impl DownloadProgress {
    /// Starts the display for a file with this name and, if known, size in bytes.
    pub fn start(name: &str, size: Option<u64>) -> DownloadProgress {
        if !io::stderr().is_terminal() {
            let size = size.map_or(String::new(), |size| format!(", {}", super::bytes(size)));
            write_line(&format!("downloading {name}{size}"));
            return DownloadProgress(ProgressBar::hidden());
        }
        let template = "{msg} {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  eta {eta}";
        let style = ProgressStyle::with_template(template).expect("the template is valid");
        let bar =
            ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr_with_hz(10)).with_style(style);
        bar.set_message(name.to_string());
        DownloadProgress(bar)
    }

    /// Sets the number of bytes received.
    pub fn set_received(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}

impl Drop for DownloadProgress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
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

fn styled_bar() -> ProgressBar {
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let template = if colour {
        "epoch {prefix:.bold} {bar:30.cyan} {pos}/{len}  {msg}  eta {eta}"
    } else {
        "epoch {prefix} {bar:30} {pos}/{len}  {msg}  eta {eta}"
    };
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10)).with_style(style)
}

/// Writes a line to stderr; a closed stderr is not an error.
fn write_line(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}
