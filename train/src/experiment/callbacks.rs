//! Callbacks of a run's configuration.
use super::{Experiment, reports};
use crate::Result;
use crate::callbacks::{
    Callback, CallbackList, CsvLogger, EarlyStopping, ModelCheckpoint, RunSnapshot, SaveReason,
};
use crate::checkpoint::CheckpointHeader;
use crate::data::BadImages;
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
        list.push(BadImagesFile { path: path.join("bad_images.csv"), bad_images });
    }
    list.push(CsvLogger::new(path.join("summary.csv")));
    reports::push(&mut list, experiment, folder)?;
    Ok(list)
}

/// `bad_images.csv`, if there are any.
struct BadImagesFile {
    path: PathBuf,
    bad_images: Arc<BadImages>,
}

impl Callback for BadImagesFile {
    fn on_save(&mut self, _: &RunSnapshot, _: SaveReason) -> Result<()> {
        self.bad_images.write_csv(&self.path)
    }
}
