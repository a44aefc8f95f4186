//! Resuming a run from a checkpoint.
mod changes;

pub use changes::OptionChange;
pub(super) use changes::note as changes_note;

use super::{Experiment, conv_plans};
use crate::checkpoint::{Checkpoint, CheckpointHeader, state_tensors};
use crate::config::Config;
use crate::data::{DatasetChecksums, DatasetSplits};
use crate::message::count;
use crate::trainer::TrainerState;
use crate::{Error, Result};

/// Checkpoint from which a run is resumed.
pub struct RunCheckpoint {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Messages about newer checkpoints that cannot be used.
    pub notes: Vec<String>,
}

impl Experiment {
    /// Restores model, optimizer, EMA and progress from the checkpoint of a resumed run, once.
    pub(super) fn restore(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_restored, true) {
            return Ok(());
        }
        let (config, data) = (&self.config, self.data.as_ref().expect("built"));
        if let Some(RunCheckpoint { checkpoint, notes }) = &self.resume {
            let header = &checkpoint.header;
            let change = data_change(&data.checksums, header);
            let is_changed = matches!(change, DataChange::TrainingSamples | DataChange::TrainingImages);
            // Another list of samples and --start-epoch start the epoch in progress again.
            let restarts_epoch = change == DataChange::TrainingSamples || config.start_epoch.is_some();
            let is_within_epoch = header.state.batch > 0 && !restarts_epoch;
            let changes = same_run_changes(config, &data.splits, header, is_within_epoch)?;
            if is_changed && !self.allow_changed_data {
                return Err(training_data_changed());
            }
            let batches = epoch_batches(config, self.train_loader.as_ref().expect("built").batches());
            let counts_epochs_alike = !restarts_epoch && !changes.iter().any(OptionChange::is_of_epoch);
            if counts_epochs_alike {
                check_progress(config, checkpoint, batches)?;
            }
            let has_loss_scale = config.gradient_rule().scaling.is_some();
            if has_loss_scale && !checkpoint.has_loss_scale() && !config.no_resume_opt {
                return Err(loss_scaling_changed());
            }
            let optimizer = self.optimizer.as_ref().filter(|_| !config.no_resume_opt);
            let ema = self.train_step.as_ref().and_then(|step| step.ema());
            checkpoint.restore(self.model.as_deref().expect("built"), optimizer, ema)?;
            self.state = header.state.clone();
            self.notes.extend(notes.iter().cloned());
            let updates = updates_per_epoch(config, batches);
            if changes.iter().any(OptionChange::is_of_epoch) {
                self.state.start_at(header.state.epoch, updates);
            }
            self.changes = changes;
            match change {
                DataChange::None => {}
                DataChange::Validation => self.notes.push(
                    "note: the validation data have changed: training continues as before, and metrics before and after are of \
                     different images"
                        .into(),
                ),
                DataChange::TrainingImages => self.notes.push(
                    "note: files of training images have changed: the samples and their order are as before, and their images differ from \
                     here on"
                        .into(),
                ),
                DataChange::TrainingSamples => {
                    self.notes.push(continue_with_changed_data(&mut self.state, updates));
                }
            }
        }
        self.notes.extend(self.restore_conv_plans()?);
        if let Some(epoch) = config.start_epoch {
            let epochs = config.schedule.total_epochs();
            if epoch > epochs {
                return Err(Error::usage(format!("--start-epoch {epoch} is after the end of the run"))
                    .because(format!("the run has {}", count(epochs.into(), "epoch")))
                    .remedy("lower it, or raise --epochs"));
            }
            let batches = epoch_batches(config, self.train_loader.as_ref().expect("built").batches());
            self.state.start_at(epoch, updates_per_epoch(config, batches));
        }
        if let Some(run) = &self.distributed {
            self.state = run.share("the state of the run", (run.rank() == 0).then_some(&self.state))?;
            let ema = self.train_step.as_ref().and_then(|step| step.ema());
            let model = self.model.as_deref().expect("built");
            run.replicate(state_tensors(model, self.optimizer.as_ref(), ema))?;
        }
        if self.resume.is_some() {
            let TrainerState { epoch, update, .. } = self.state;
            let epochs = count(epoch.into(), "epoch");
            self.notes.push(match epoch >= self.config.schedule.total_epochs() {
                true => format!("finished already after {epochs}; raise --epochs to train on"),
                false => format!("resuming after {epochs} and {}", count(update, "update")),
            });
        }
        Ok(())
    }
}

impl Experiment {
    /// Restores the convolution plans of the checkpoint, which rank 0 has read, on every rank. The result is a warning if this device cannot
    /// use them.
    fn restore_conv_plans(&self) -> Result<Option<String>> {
        let own = self.resume.as_ref().and_then(|resume| resume.checkpoint.header.conv_plans.clone());
        let plans = match &self.distributed {
            Some(run) => {
                run.share("the checkpoint's convolution plans", (run.rank() == 0).then_some(&own))?
            }
            None => own,
        };
        plans.map_or(Ok(None), |plans| conv_plans::restore(&self.device, &plans))
    }
}

/// The options that differ from the checkpoint's. Errors on options that cannot change, and if the classes differ.
fn same_run_changes(
    config: &Config,
    data: &DatasetSplits,
    header: &CheckpointHeader,
    is_within_epoch: bool,
) -> Result<Vec<OptionChange>> {
    let then = header.settings.batch_size.unwrap_or_default() as usize;
    let (then_size, is_own) = (then * header.world_size, config.batch_size == then);
    // Of another number of ranks: the user did not ask for another batch size.
    if config.global_batch_size() != then_size && header.world_size != config.world_size && is_own {
        return Err(Error::usage("--batch-size cannot change within a run")
            .because(format!(
                "the checkpoint was made with {} x {then} images (ranks x --batch-size), now there are {} x {}",
                header.world_size, config.world_size, config.batch_size
            ))
            .remedy(match then_size.is_multiple_of(config.world_size) {
                true => format!(
                    "use --batch-size {}, or start a new run without --resume",
                    then_size / config.world_size
                ),
                false => format!("start a number of ranks that divides {then_size}"),
            }));
    }
    let changes = changes::changes(config, header, is_within_epoch.then_some(header.state.epoch))?;
    if data.classes != header.classes {
        return Err(Error::data("the classes of the dataset have changed")
            .because(class_difference(&header.classes, &data.classes))
            .remedy("restore them, or start a new run without --resume"));
    }
    Ok(changes)
}

fn loss_scaling_changed() -> Error {
    Error::usage("loss scaling cannot start within a run")
        .at("--amp, --amp-dtype, --opt-level, --model-dtype, --on-nonfinite")
        .because("the optimizer's state in the checkpoint has no loss scale, which f16 and --on-nonfinite skip and rollback need")
        .remedy("omit these options, use bfloat16, or continue without the optimizer's state with --no-resume-opt")
}

/// Checks that the batches and updates of a checkpoint agree with its epochs of so many batches.
fn check_progress(config: &Config, checkpoint: &Checkpoint, batches: usize) -> Result<()> {
    let TrainerState { epoch, batch, update, .. } = checkpoint.header.state;
    let of_epoch = batch.min(batches).div_ceil(config.grad_accum_steps) as u64;
    let expected = u64::from(epoch) * updates_per_epoch(config, batches) + of_epoch;
    let why = match (batch > batches, update == expected) {
        (true, _) => format!("batch {batch}, but an epoch has {}", count(batches as u64, "batch")),
        (false, false) => format!("update {update}, expected {expected} at batch {batch} of epoch {epoch}"),
        (false, true) => return Ok(()),
    };
    Err(Error::checkpoint("the checkpoint cannot be used")
        .at_path(checkpoint.path())
        .because(format!("its state: {why}"))
        .remedy(format!(
            "pass another checkpoint to --resume, or start epoch {epoch} again with --start-epoch {epoch}"
        )))
}

/// The first difference of two lists of classes.
fn class_difference(then: &[String], now: &[String]) -> String {
    match then.iter().zip(now).find(|(then, now)| then != now) {
        Some((then, now)) => format!("the checkpoint's run has {then:?} where the dataset has {now:?}"),
        None => format!(
            "the checkpoint's run has {}, the dataset {}",
            count(then.len() as u64, "class"),
            count(now.len() as u64, "class")
        ),
    }
}

/// Change of a dataset since a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DataChange {
    None,
    /// Only validation images or their labels.
    Validation,
    /// Files of training images, with the names and labels of before.
    TrainingImages,
    /// Training samples or their labels.
    TrainingSamples,
}

fn data_change(now: &DatasetChecksums, header: &CheckpointHeader) -> DataChange {
    // A file of an older version has one sum of both splits, or none of the image files.
    if header.split_crc32c.is_none() && header.data_crc32c != now.samples.combined() {
        return DataChange::TrainingSamples;
    }
    let samples = header.split_crc32c.unwrap_or(now.samples);
    let content = header.content_crc32c.unwrap_or(now.content);
    if samples.train != now.samples.train {
        DataChange::TrainingSamples
    } else if content.train != now.content.train {
        DataChange::TrainingImages
    } else if (samples.validation, content.validation) != (now.samples.validation, now.content.validation) {
        DataChange::Validation
    } else {
        DataChange::None
    }
}

fn training_data_changed() -> Error {
    Error::data("the training data have changed")
        .because("the names, labels, sizes or first bytes of images differ from the data of the checkpoint's run")
        .remedy("restore them, continue with the new ones with --allow-changed-data, or start a new run without --resume")
}

/// Prepares the state of a run for other training images, and says what will differ. The order of the samples is another one, so an epoch
/// in progress starts again.
fn continue_with_changed_data(state: &mut TrainerState, updates_per_epoch: u64) -> String {
    let (epoch, batches) = (state.epoch, state.batch);
    state.start_at(epoch, updates_per_epoch);
    let again = match batches {
        0 => String::new(),
        batches => format!(", which starts again ({} of it were done)", count(batches as u64, "batch")),
    };
    format!(
        "note: the training data have changed: from epoch {epoch} on{again}, images and their order differ from those of the run so far; an \
         epoch has {}, and the learning rates follow",
        count(updates_per_epoch, "update")
    )
}

/// Batches of an epoch, of a loader of so many.
fn epoch_batches(config: &Config, batches: usize) -> usize {
    config.batches_per_epoch.map_or(batches, |limit| limit.min(batches))
}

fn updates_per_epoch(config: &Config, batches: usize) -> u64 {
    batches.div_ceil(config.grad_accum_steps) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_training_data_start_the_epoch_in_progress_again() {
        let mut state =
            TrainerState { epoch: 2, batch: 3, update: 13, loss_sum: 4.0, ..TrainerState::default() };
        let note = continue_with_changed_data(&mut state, 7);
        assert_eq!((state.epoch, state.batch, state.update, state.loss_sum), (2, 0, 14, 0.0));
        assert!(note.contains("from epoch 2 on, which starts again (3 batches"), "{note}");
        assert!(note.contains("7 updates"), "{note}");
        assert!(!continue_with_changed_data(&mut state, 7).contains("starts again"));
    }

    #[test]
    fn difference_of_classes_is_named() {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let text = class_difference(&names(&["a", "b"]), &names(&["a", "c"]));
        assert!(text.contains("\"b\"") && text.contains("\"c\""), "{text}");
        assert!(
            class_difference(&names(&["a"]), &names(&["a", "c"])).contains("1 class, the dataset 2 classes")
        );
    }
}
