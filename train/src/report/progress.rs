//! Progress on stderr: a bar on a terminal, lines in a pipe.
use super::{EpochMetrics, Observer, UpdateReport, thousands};
use crate::Result;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};

/// How progress is shown.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A bar on a terminal, lines otherwise
    Auto,
    /// A bar that redraws at most ten times a second
    Bar,
    /// Lines
    Plain,
    /// Lines of JSON
    Json,
    /// Nothing but warnings and errors
    None,
}

/// Shows progress on stderr.
pub struct Progress {
    mode: Mode,
    bar: ProgressBar,
    log_interval: u64,
}

impl Progress {
    /// Progress in a mode, with a line for every `log_interval` updates where there are lines.
    pub fn new(mode: Mode, log_interval: u64) -> Progress {
        let mode = match mode {
            Mode::Auto if io::stderr().is_terminal() => Mode::Bar,
            Mode::Auto => Mode::Plain,
            chosen => chosen,
        };
        let bar = if mode == Mode::Bar { styled_bar() } else { ProgressBar::hidden() };
        Progress { mode, bar, log_interval }
    }

    fn say(&self, text: &str, event: impl FnOnce() -> serde_json::Value) {
        match self.mode {
            Mode::Bar => self.bar.suspend(|| line(text)),
            Mode::Plain => line(text),
            Mode::Json => line(&event().to_string()),
            Mode::Auto | Mode::None => {}
        }
    }
}

impl Observer for Progress {
    fn update(&mut self, report: &UpdateReport) -> Result<()> {
        if self.mode == Mode::Bar {
            if self.bar.length() != Some(report.batches as u64) {
                self.bar.set_length(report.batches as u64);
            }
            self.bar.set_prefix(format!("{}/{}", report.epoch + 1, report.epochs));
            let speed = thousands(report.images_per_second.round() as u64);
            self.bar.set_message(format!("loss {:.4}  lr {:.2e}  {speed} images/s", report.loss, report.lr));
            self.bar.set_position(report.batch as u64);
        } else if report.update.is_multiple_of(self.log_interval) {
            self.say(&report.line(), || event("update", report));
        }
        Ok(())
    }

    fn epoch(&mut self, report: &EpochMetrics, best: bool) -> Result<()> {
        self.say(&report.line(best), || event("epoch", report));
        Ok(())
    }

    fn note(&mut self, text: &str) -> Result<()> {
        self.say(text, || serde_json::json!({ "event": "note", "text": text }));
        Ok(())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Shows how much of a file has arrived, on a terminal; elsewhere one line says that it begins.
pub struct Transfer(ProgressBar);

impl Transfer {
    /// A file of a name and, if known, a size in bytes.
    pub fn start(name: &str, size: Option<u64>) -> Transfer {
        if !io::stderr().is_terminal() {
            let size = size.map_or(String::new(), |size| format!(", {}", super::bytes(size)));
            line(&format!("downloading {name}{size}"));
            return Transfer(ProgressBar::hidden());
        }
        let template = "{msg} {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  eta {eta}";
        let style = ProgressStyle::with_template(template).expect("the template is valid");
        let bar =
            ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr_with_hz(10)).with_style(style);
        bar.set_message(name.to_string());
        Transfer(bar)
    }

    /// So many bytes are there.
    pub fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// An event with the fields of its report, for a line of JSON.
pub(super) fn event(kind: &str, report: &impl serde::Serialize) -> serde_json::Value {
    let mut fields = serde_json::Map::from_iter([("event".to_string(), kind.into())]);
    if let Ok(serde_json::Value::Object(report)) = serde_json::to_value(report) {
        fields.extend(report);
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

/// A closed stderr is no reason to stop training.
fn line(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}
