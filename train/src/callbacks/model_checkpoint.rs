//! Checkpoints of a run.
use super::{Callback, RunSnapshot, SaveReason};
use crate::checkpoint::files::{self, CheckpointName};
use crate::checkpoint::history::{CheckpointHistory, outdated_recovery};
use crate::checkpoint::space::free_bytes;
use crate::checkpoint::{
    self, Checkpoint, CheckpointHeader, ConvPlans, durable, make_room, make_room_for_reports,
};
use crate::settings::EvalMetric;
use crate::trainer::TrainerState;
use crate::{Error, Result};
use fornax_engine::Device;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

/// Writes the checkpoints of a run: `last` at every save, `best`, the ranked `checkpoint-EPOCH` and the two newest `recovery-EPOCH-BATCH`.
/// Each holds everything that resuming needs; those of one state are hard links. A state that is not finite is never written.
pub struct ModelCheckpoint {
    folder: PathBuf,
    /// Metadata of the run; every checkpoint has its own state in it.
    header: CheckpointHeader,
    device: Device,
    metric: EvalMetric,
    /// Number of ranked checkpoints.
    capacity: usize,
    room: RoomReport,
}

/// Report of checkpoints that are removed because the disk is full, once per run.
#[derive(Default)]
struct RoomReport {
    is_reported: bool,
    message: Option<String>,
}

impl RoomReport {
    fn add(&mut self, removed: &[CheckpointName]) {
        let ranked = removed.iter().any(|name| matches!(name, CheckpointName::Ranked(_)));
        if ranked && !std::mem::replace(&mut self.is_reported, true) {
            self.message = Some(
                "warning: the disk is full: ranked checkpoints are removed, the lowest first, to make room for `last` and `best`; free some \
                 space, or lower --checkpoint-hist with --resume"
                    .into(),
            );
        }
    }
}

impl ModelCheckpoint {
    /// Creates the callback for a run with this metadata, which writes to `folder` and keeps the checkpoints of the `capacity` best epochs
    /// by a metric.
    pub fn new(
        folder: PathBuf,
        header: CheckpointHeader,
        device: Device,
        metric: EvalMetric,
        capacity: usize,
    ) -> ModelCheckpoint {
        ModelCheckpoint { folder, header, device, metric, capacity, room: RoomReport::default() }
    }

    /// Epochs with a ranked checkpoint in a state.
    fn ranked(&self, state: &TrainerState) -> Vec<u32> {
        let mut history = CheckpointHistory::new(self.capacity, self.metric.lower_is_better());
        for row in &state.history {
            history.insert(row.epoch, Some(self.metric.value(row)), row.eval_loss);
        }
        history.epochs().collect()
    }

    /// Writes checkpoints of one state: the first as a file, for which less important ones make room on a full disk, the others as links to
    /// it. All are attempted; the error is the first one.
    fn write(&mut self, names: &[CheckpointName], bytes: &[u8], state: &TrainerState) -> Result<()> {
        let (folder, ranked) = (&self.folder, self.ranked(state));
        let room = &mut self.room;
        let mut make_room = || {
            let removed = make_room(folder, &ranked, bytes.len() as u64);
            room.add(&removed);
            !removed.is_empty()
        };
        let mut written: Option<PathBuf> = None;
        let mut result = Ok(());
        for name in names {
            let path = name.path(folder);
            let attempt = match &written {
                Some(first) => durable::link(first, &path, bytes),
                None => durable::write_making_room(&path, bytes, &mut make_room),
            };
            match attempt {
                Ok(()) => written = written.or(Some(path)),
                Err(error) => result = result.and(Err(error)),
            }
        }
        // The lines of logs and metrics need a little space, too.
        if result.is_ok() && free_bytes(folder).is_some_and(|free| free < durable::MARGIN) {
            room.add(&make_room_for_reports(folder, &ranked, durable::MARGIN));
        }
        result
    }

    fn remove(&self, name: CheckpointName) -> Result<()> {
        let path = name.path(&self.folder);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::disk("an old checkpoint cannot be removed").at_path(&path).because(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes ranked checkpoints that are no longer among the best, and old recovery checkpoints.
    fn prune(&self, state: &TrainerState) -> Result<()> {
        let (ranked, found) = (self.ranked(state), files::list(&self.folder));
        let recovery = found.iter().filter_map(|name| match name {
            CheckpointName::Recovery(epoch, batch) => Some((*epoch, *batch)),
            _ => None,
        });
        // A run that was resumed from an earlier state will not reach these states in the same way.
        let (ahead, recovery): (Vec<_>, Vec<_>) = recovery.partition(|at| *at >= (state.epoch, state.batch));
        for (epoch, batch) in ahead.into_iter().chain(outdated_recovery(recovery)) {
            self.remove(CheckpointName::Recovery(epoch, batch))?;
        }
        found.into_iter().try_for_each(|name| match name {
            CheckpointName::Ranked(epoch) if !ranked.contains(&epoch) => self.remove(name),
            _ => Ok(()),
        })
    }
}

impl Callback for ModelCheckpoint {
    fn on_save(&mut self, snapshot: &RunSnapshot, reason: SaveReason) -> Result<()> {
        let RunSnapshot { model, optimizer, ema, state } = *snapshot;
        let header = self.header.with_state(state, ConvPlans::of_device(&self.device)?);
        let tensors = checkpoint::tensors(model, Some(optimizer), ema)?;
        let bytes = checkpoint::serialize(&tensors, &header)?;
        let epoch = state.epoch.saturating_sub(1);
        let names = match reason {
            SaveReason::Recovery => {
                vec![CheckpointName::Recovery(state.epoch, state.batch.saturating_sub(1))]
            }
            // On a full disk the most important ones come first.
            SaveReason::EpochEnd { evaluated, best } => {
                let is_ranked = evaluated && self.ranked(state).contains(&epoch);
                let names = [
                    best.then_some(CheckpointName::Best),
                    Some(CheckpointName::Last),
                    is_ranked.then_some(CheckpointName::Ranked(epoch)),
                ];
                names.into_iter().flatten().collect()
            }
            _ => vec![CheckpointName::Last],
        };
        let written = self.write(&names, &bytes, state);
        // Even then, as it makes room for the next ones.
        let pruned = self.prune(state);
        written.and(pruned)
    }

    fn take_message(&mut self) -> Option<String> {
        self.room.message.take()
    }

    fn last_checkpoint(&self) -> Result<Option<Checkpoint>> {
        checkpoint::newest(&self.folder).map(|found| found.map(|newest| newest.checkpoint))
    }
}
