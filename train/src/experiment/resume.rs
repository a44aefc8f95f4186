//! Resuming a run from a checkpoint.
use super::{Experiment, conv_plans};
use crate::checkpoint::{Checkpoint, CheckpointHeader, state_tensors};
use crate::config::Config;
use crate::data::DatasetSplits;
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
            check_same_run(config, &data.splits, &checkpoint.header)?;
            let optimizer = self.optimizer.as_ref().filter(|_| !config.no_resume_opt);
            let ema = self.train_step.as_ref().and_then(|step| step.ema());
            checkpoint.restore(self.model.as_deref().expect("built"), optimizer, ema)?;
            self.state = checkpoint.header.state.clone();
            self.notes.extend(notes.iter().cloned());
        }
        self.notes.extend(self.restore_conv_plans()?);
        if let Some(epoch) = config.start_epoch {
            let epochs = config.schedule.total_epochs();
            if epoch > epochs {
                return Err(Error::usage(format!("--start-epoch {epoch} is after the end of the run"))
                    .because(format!("the run has {epochs} epochs"))
                    .remedy("lower it, or raise --epochs"));
            }
            let batches = self.train_loader.as_ref().expect("built").batches();
            let batches = config.batches_per_epoch.map_or(batches, |limit| limit.min(batches));
            self.state.start_at(epoch, batches.div_ceil(config.grad_accum_steps) as u64);
        }
        if let Some(run) = &self.distributed {
            self.state = run.share("the state of the run", (run.rank() == 0).then_some(&self.state))?;
            let ema = self.train_step.as_ref().and_then(|step| step.ema());
            let model = self.model.as_deref().expect("built");
            run.replicate(state_tensors(model, self.optimizer.as_ref(), ema))?;
        }
        if self.resume.is_some() {
            let TrainerState { epoch, update, .. } = self.state;
            self.notes.push(format!("resuming after {epoch} epochs and {update} updates"));
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

/// Checks that a resumed run has the checkpoint's dataset, model, batch size, optimizer and seed.
fn check_same_run(config: &Config, data: &DatasetSplits, header: &CheckpointHeader) -> Result<()> {
    let (now, then) = (&config.settings.given(), &header.settings.given());
    let then_size = header.settings.batch_size.unwrap_or_default() as usize * header.world_size;
    if config.global_batch_size() != then_size {
        return Err(Error::usage("--batch-size cannot change within a run")
            .because(format!(
                "the checkpoint was made with {} x {} images (ranks x --batch-size), now there are {} x {}",
                header.world_size,
                then_size / header.world_size,
                config.world_size,
                config.batch_size
            ))
            .remedy(match then_size.is_multiple_of(config.world_size) {
                true => format!(
                    "use --batch-size {}, or start a new run without --resume",
                    then_size / config.world_size
                ),
                false => format!("start a number of ranks that divides {then_size}"),
            }));
    }
    // A resumed run has its weights from the checkpoint, and its ranked checkpoints by the metric of the run.
    let fixed = [
        "dataset",
        "model",
        "opt",
        "seed",
        "eval_metric",
        "pretrained",
        "pretrained_path",
        "initial_checkpoint",
        "head_init_scale",
        "head_init_bias",
    ];
    // Without the optimizer's state, another optimizer may go on.
    let fixed = fixed.into_iter().filter(|key| *key != "opt" || !config.no_resume_opt);
    if let Some(key) = fixed.into_iter().find(|key| now.get(*key) != then.get(*key)) {
        let flag = format!("--{}", key.replace('_', "-"));
        let text = |value: Option<&serde_json::Value>| value.map_or("unset".into(), |v| v.to_string());
        return Err(Error::usage(format!("{flag} cannot change within a run"))
            .because(format!(
                "the checkpoint was made with {}, now it is {}",
                text(then.get(key)),
                text(now.get(key))
            ))
            .remedy(format!("omit {flag}, or start a new run without --resume")));
    }
    if data.crc32c() != header.data_crc32c || data.classes != header.classes {
        let why = "its images or labels differ from those of the checkpoint's run";
        return Err(Error::data("the dataset has changed")
            .because(why)
            .remedy("restore it, or start a new run"));
    }
    Ok(())
}
