//! Folder of a run while it trains: a new one takes its place if it is moved or removed.
use super::UpdateMetrics;
use super::description::{self, DescriptionFile};
use crate::Result;
use crate::callbacks::{Callback, EpochEnd, RunSnapshot, SaveReason, TrainBegin, TrainEnd};
use crate::checkpoint::RunLock;
use crate::run_files::RunLocation;
use std::path::PathBuf;

/// Callback that is called before the others: if the run's folder was moved or removed, it creates a new one.
#[derive(Debug)]
pub struct FolderKeeper {
    location: RunLocation,
    /// Names and contents of the files that are written only at the start.
    descriptions: Vec<DescriptionFile>,
    is_described: bool,
    message: Option<String>,
}

impl FolderKeeper {
    /// Creates the callback for a locked folder at an absolute path.
    pub(super) fn new(path: PathBuf, lock: RunLock) -> FolderKeeper {
        let location = RunLocation::new(path, lock);
        FolderKeeper { location, descriptions: vec![], is_described: true, message: None }
    }

    /// Sets names and contents of the files that a new folder gets.
    pub(super) fn describe(&mut self, descriptions: Vec<DescriptionFile>) {
        self.descriptions = descriptions;
    }

    fn keep(&mut self) -> Result<()> {
        if let Some(message) = self.location.restore()? {
            self.message = Some(message);
            self.is_described = false;
        }
        if !self.is_described {
            // On a full disk the checkpoint is more important: the next call writes them again.
            self.is_described = description::write(self.location.path(), &self.descriptions).is_ok();
        }
        Ok(())
    }
}

impl Callback for FolderKeeper {
    fn on_train_begin(&mut self, _: &TrainBegin) -> Result<()> {
        self.keep()
    }

    fn on_batch_end(&mut self, _: &UpdateMetrics) -> Result<()> {
        self.keep()
    }

    fn on_epoch_end(&mut self, _: &EpochEnd) -> Result<()> {
        self.keep()
    }

    fn on_save(&mut self, _: &RunSnapshot, _: SaveReason) -> Result<()> {
        self.keep()
    }

    fn on_train_end(&mut self, _: &TrainEnd) -> Result<()> {
        self.keep()
    }

    fn take_message(&mut self) -> Option<String> {
        self.message.take()
    }
}
