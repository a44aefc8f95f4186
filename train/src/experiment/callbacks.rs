//! Callbacks of a run's configuration.
use super::{Experiment, reports};
use crate::Result;
use crate::callbacks::{
    Callback, CallbackList, CsvLogger, EarlyStopping, EpochEnd, ModelCheckpoint, TrainBegin,
};
use crate::checkpoint::CheckpointHeader;
use crate::data::bad_images::BadImagesFile;
use crate::data::{BadImagePolicy, BadImages};
use crate::message::count;
use crate::report::RunFolder;
use std::sync::Arc;

/// The callbacks of an experiment whose parts are built. Files are written only with a folder.
pub(super) fn build(experiment: &Experiment, folder: Option<RunFolder>) -> Result<CallbackList<'static>> {
    let mut list = CallbackList::new();
    let config = &experiment.config;
    if let Some(patience) = config.early_stop_patience {
        list.push(EarlyStopping::new(config.eval_metric, patience));
    }
    let Some(mut folder) = folder else { return Ok(list) };
    if let Some(keeper) = folder.take_keeper() {
        list.push(keeper);
    }
    let data = experiment.data.as_ref().expect("built");
    let path = folder.path().to_path_buf();
    list.push(ModelCheckpoint::new(
        path.join("checkpoints"),
        CheckpointHeader::new(&config.settings, &data.splits, &data.checksums, &data.input)
            .with_world_size(config.world_size),
        experiment.device,
        config.eval_metric,
        config.checkpoint_hist,
    ));
    let loaders = [&experiment.train_loader, &experiment.validation_loader];
    let records: Vec<Arc<BadImages>> = loaders
        .into_iter()
        .filter_map(|loader| loader.as_ref().expect("built").options().bad_images.clone())
        .collect();
    let file = Arc::new(BadImagesFile::open(path.join(BAD_IMAGES)));
    records.iter().for_each(|record| record.list_in(&file));
    list.push(BadImagesReport {
        records: records.into_iter().map(|record| (record, 0)).collect(),
        file,
        messages: vec![],
    });
    list.push(CsvLogger::new(path.join("summary.csv")));
    reports::push(&mut list, experiment, folder)?;
    Ok(list)
}

/// Name of the list of bad images in a run's folder.
const BAD_IMAGES: &str = "bad_images.csv";

/// Message before the first update, and after an epoch, about bad images that were found since the last one.
struct BadImagesReport {
    /// Record of each split, and the number of bad images in its last message.
    records: Vec<(Arc<BadImages>, usize)>,
    file: Arc<BadImagesFile>,
    messages: Vec<String>,
}

impl BadImagesReport {
    /// Prepares the messages. Errors if the list could not be written.
    fn report(&mut self) -> Result<()> {
        for (record, reported) in &mut self.records {
            let found = record.found().len();
            if found > *reported {
                *reported = found;
                let images = count(found as u64, &format!("{} image", record.split()));
                let (be, done) = match (record.policy(), found) {
                    (BadImagePolicy::Replace, 1) => ("is", "replaced by another"),
                    (BadImagePolicy::Replace, _) => ("are", "replaced by others"),
                    (_, 1) => ("is", "skipped"),
                    _ => ("are", "skipped"),
                };
                let path = self.file.path().display();
                self.messages.push(format!(
                    "warning: {images} cannot be read and {be} {done}; {path} lists the bad images"
                ));
            }
        }
        self.file.take_error().map_or(Ok(()), Err)
    }
}

impl Callback for BadImagesReport {
    fn on_train_begin(&mut self, _: &TrainBegin) -> Result<()> {
        self.report()
    }

    fn on_epoch_end(&mut self, _: &EpochEnd) -> Result<()> {
        self.report()
    }

    fn take_message(&mut self) -> Option<String> {
        let messages = std::mem::take(&mut self.messages);
        (!messages.is_empty()).then(|| messages.join("\n"))
    }
}
