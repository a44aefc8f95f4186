//! Trial runs: `--fast-dev-run` and `--overfit-batches`.
use crate::Result;
use crate::callbacks::{Callback, EpochEnd};
use crate::config::Config;
use crate::experiment::Experiment;
use crate::settings::Settings;

/// Limits a run to `batches` batches of training and of validation, without a run folder.
pub fn limit_batches(experiment: &mut Experiment, batches: usize) {
    let config = &mut experiment.config;
    config.batches_per_epoch = Some(config.batches_per_epoch.map_or(batches, |given| given.min(batches)));
    let samples = batches.saturating_mul(config.validation_batch_size * config.world_size);
    let limit = &mut config.data.dataset.val_num_samples;
    *limit = Some(limit.map_or(samples, |given| given.min(samples)));
    experiment.output = None;
    experiment.check_images = false;
    experiment.callbacks.push(OneEpoch { is_over: false });
}

/// Settings that train on the same `batches` batches in every epoch.
pub fn overfitting(settings: Settings, batches: usize, world_size: usize) -> Result<Settings> {
    let batch_size = Config::resolve_for(&settings, world_size)?.global_batch_size();
    let samples = batches.saturating_mul(batch_size);
    let given = settings.train_num_samples.unwrap_or(samples);
    Ok(Settings { train_num_samples: Some(samples.min(given)), ..settings })
}

/// Validates on the training images.
pub fn validate_on_training_images(experiment: &mut Experiment) -> Result<()> {
    experiment.build_data()?;
    if let Some(data) = &mut experiment.data {
        data.splits.validation = Some(data.splits.train.clone());
        data.splits
            .notes
            .push("--overfit-batches: the training images are also the validation images".into());
    }
    Ok(())
}

/// Ends a run after its first epoch.
struct OneEpoch {
    is_over: bool,
}

impl Callback for OneEpoch {
    fn on_epoch_end(&mut self, _: &EpochEnd) -> Result<()> {
        self.is_over = true;
        Ok(())
    }

    fn stop_reason(&self) -> Option<String> {
        self.is_over.then(|| "--fast-dev-run ends after one epoch".into())
    }
}
