//! Callbacks of a run's configuration.
use super::{Experiment, reports};
use crate::Result;
use crate::callbacks::{
    Callback, CallbackList, CsvLogger, EarlyStopping, EpochEnd, ModelCheckpoint, RunSnapshot, SaveReason,
};
use crate::checkpoint::CheckpointHeader;
use crate::data::{BadImagePolicy, BadImages};
use crate::report::RunFolder;
use std::path::PathBuf;
use std::sync::Arc;

/// The callbacks of an experiment whose parts are built. Files are written only with a folder.
pub(super) fn build(experiment: &Experiment, folder: Option<RunFolder>) -> Result<CallbackList<'static>> {
    let mut list = CallbackList::new();
    let config = &experiment.config;
    if let Some(patience) = config.early_stop_patience {
        list.push(EarlyStopping::new(config.eval_metric, patience));
    }
    let Some(folder) = folder else { return Ok(list) };
    let data = experiment.data.as_ref().expect("built");
    let path = folder.path().to_path_buf();
    list.push(ModelCheckpoint::new(
        path.join("checkpoints"),
        CheckpointHeader::new(&config.settings, &data.splits, &data.input).with_world_size(config.world_size),
        experiment.device,
        config.eval_metric,
        config.checkpoint_hist,
    ));
    let loader = experiment.train_loader.as_ref().expect("built");
    if let Some(bad_images) = loader.options().bad_images.clone() {
        list.push(BadImagesFile {
            path: path.join("bad_images.csv"),
            bad_images,
            reported: 0,
            message: None,
        });
    }
    list.push(CsvLogger::new(path.join("summary.csv")));
    reports::push(&mut list, experiment, folder)?;
    Ok(list)
}

/// `bad_images.csv`, if there are any, and a message after an epoch that has found more of them.
struct BadImagesFile {
    path: PathBuf,
    bad_images: Arc<BadImages>,
    /// Number of bad images in the last message.
    reported: usize,
    message: Option<String>,
}

impl Callback for BadImagesFile {
    fn on_epoch_end(&mut self, _: &EpochEnd) -> Result<()> {
        let count = self.bad_images.found().len();
        if count > self.reported {
            let done = match self.bad_images.policy() {
                BadImagePolicy::Skip => "skipped",
                _ => "replaced by others",
            };
            self.message = Some(format!(
                "warning: {count} training images cannot be read and are {done}; {} lists them",
                self.path.display()
            ));
            self.reported = count;
        }
        Ok(())
    }

    fn take_message(&mut self) -> Option<String> {
        self.message.take()
    }

    fn on_save(&mut self, _: &RunSnapshot, _: SaveReason) -> Result<()> {
        self.bad_images.write_csv(&self.path)
    }
}
