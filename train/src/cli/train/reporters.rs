//! Progress on the terminal and in the run's folder, together.
use crate::report::{EpochMetrics, Observer, Progress, RunFolder, UpdateReport};
use crate::{Error, Result};

/// Tells both. When the folder can no longer be written, it says so once and training goes on.
pub struct Reporters {
    progress: Progress,
    folder: Option<RunFolder>,
}

impl Reporters {
    /// Both, in working order.
    pub fn new(progress: Progress, folder: RunFolder) -> Reporters {
        Reporters { progress, folder: Some(folder) }
    }

    fn record(&mut self, write: impl FnOnce(&mut RunFolder) -> Result<()>) -> Result<()> {
        let Some(Err(error)) = self.folder.as_mut().map(write) else { return Ok(()) };
        self.folder = None;
        self.progress.note(&warning(&error))
    }
}

fn warning(error: &Error) -> String {
    format!("warning: log.txt and metrics.jsonl end here: {error}")
}

impl Observer for Reporters {
    fn update(&mut self, report: &UpdateReport) -> Result<()> {
        self.record(|folder| folder.update(report))?;
        self.progress.update(report)
    }

    fn epoch(&mut self, report: &EpochMetrics, best: bool) -> Result<()> {
        self.record(|folder| folder.epoch(report, best))?;
        self.progress.epoch(report, best)
    }

    fn note(&mut self, text: &str) -> Result<()> {
        self.record(|folder| folder.note(text))?;
        self.progress.note(text)
    }
}
