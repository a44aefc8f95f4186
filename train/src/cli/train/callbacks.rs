//! Callbacks of a run: progress on the terminal, and the log files in its folder.
use crate::report::{Callback, EpochMetrics, Progress, RunFolder, UpdateMetrics};
use crate::{Error, Result};

/// Forwards to progress and folder. If the folder cannot be written any more, it reports that once and training continues.
pub struct Callbacks {
    progress: Progress,
    folder: Option<RunFolder>,
}

impl Callbacks {
    /// Creates the callbacks.
    pub fn new(progress: Progress, folder: RunFolder) -> Callbacks {
        Callbacks { progress, folder: Some(folder) }
    }

    fn forward_to_folder(&mut self, write: impl FnOnce(&mut RunFolder) -> Result<()>) -> Result<()> {
        let Some(Err(error)) = self.folder.as_mut().map(write) else { return Ok(()) };
        self.folder = None;
        self.progress.on_message(&warning(&error))
    }
}

fn warning(error: &Error) -> String {
    format!("warning: log.txt and metrics.jsonl end here: {error}")
}

impl Callback for Callbacks {
    fn on_update(&mut self, metrics: &UpdateMetrics) -> Result<()> {
        self.forward_to_folder(|folder| folder.on_update(metrics))?;
        self.progress.on_update(metrics)
    }

    fn on_epoch_end(&mut self, metrics: &EpochMetrics, best: bool) -> Result<()> {
        self.forward_to_folder(|folder| folder.on_epoch_end(metrics, best))?;
        self.progress.on_epoch_end(metrics, best)
    }

    fn on_message(&mut self, text: &str) -> Result<()> {
        self.forward_to_folder(|folder| folder.on_message(text))?;
        self.progress.on_message(text)
    }
}
