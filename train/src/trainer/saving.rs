//! Saving of a run's state while it trains, also when the disk is full.
use super::Trainer;
use crate::callbacks::{Callback, SaveReason};
use crate::error::{DiskFailure, ErrorKind};
use crate::{Error, Result};
use std::time::{Duration, Instant};

/// Longest time between two attempts to save on a full disk.
const INTERVAL: Duration = Duration::from_secs(10);
/// Interval of the checks for signals while the run waits.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

impl Trainer<'_> {
    /// Saves the state. A full disk may have space again later, and earlier checkpoints still exist: during a run a failure is only reported.
    /// At the start it is an error. At the end, and when a signal interrupts the run, the run waits for space, or for its
    /// folder.
    pub(super) fn save(&mut self, reason: SaveReason, callback: &mut dyn Callback) -> Result<()> {
        // An interrupted run is saved even if another rank has gone.
        match (self.gather_bad_images(), reason) {
            (Ok(()), _) | (Err(_), SaveReason::Interrupt) => {}
            (Err(error), _) => return Err(error),
        }
        self.state.bad_images = self.bad_images();
        let mut saved = callback.on_save(&self.snapshot(), reason);
        if saved.as_ref().is_err_and(|error| error.disk_failure() == Some(DiskFailure::NoFolder)) {
            // The run's folder was removed meanwhile: the next attempt begins with a new one.
            saved = callback.on_save(&self.snapshot(), reason);
        }
        let is_last = match reason {
            SaveReason::Start | SaveReason::Request | SaveReason::Recovery | SaveReason::Trained => false,
            SaveReason::Interrupt => true,
            SaveReason::EpochEnd { .. } => self.state.epoch >= self.schedule.total_epochs(),
        };
        let has_failed = self.status.save_failed.replace(saved.is_err());
        match saved {
            Err(error) if is_last && error.disk_failure().is_some() => {
                self.save_again(error, reason, callback)
            }
            Err(error) if error.kind() == ErrorKind::Disk && !is_last && reason != SaveReason::Start => {
                if has_failed {
                    return Ok(());
                }
                let help = error.help().unwrap_or("free some space").to_string();
                let error = error.remedy(format!(
                    "{help}: the next checkpoint is written again; --resume continues from the latest that exists"
                ));
                callback.on_message(&format!("warning: training continues without this checkpoint: {error}"))
            }
            other => other,
        }
    }

    /// Attempts to save again until it succeeds, a signal arrives or the time is over.
    fn save_again(&self, mut error: Error, reason: SaveReason, callback: &mut dyn Callback) -> Result<()> {
        // The other ranks wait for this one, and not longer.
        let of_ranks = self.distributed.map(|run| run.group.operation_timeout().mul_f64(0.8));
        let limit = of_ranks.map_or(self.options.disk_wait, |limit| limit.min(self.options.disk_wait));
        let interval = INTERVAL.min(limit / 60).max(POLL_INTERVAL);
        let (started, is_interrupted) = (Instant::now(), self.signals.interrupt().is_some());
        if !limit.is_zero() {
            let warning = Error::disk(format!("the last checkpoint is not saved yet: {}", error.what()))
                .at(error.location().unwrap_or("the output folder"))
                .because(error.why().unwrap_or("the disk is full"))
                .remedy(format!(
                    "{}; trying again every {} for {}, Ctrl-C gives up",
                    error.help().unwrap_or("free some space"),
                    duration(interval),
                    duration(limit)
                ));
            callback.on_message(&format!("warning: {warning}"))?;
        }
        while started.elapsed() < limit {
            let next = Instant::now() + interval;
            while Instant::now() < next {
                std::thread::sleep(POLL_INTERVAL);
                if !is_interrupted && self.signals.interrupt().is_some() {
                    return Err(error);
                }
                self.distributed.map_or(Ok(()), |run| run.group.check())?;
            }
            match callback.on_save(&self.snapshot(), reason) {
                Ok(()) => return callback.on_message("the last checkpoint is saved"),
                Err(again) if again.disk_failure().is_some() => error = again,
                Err(other) => return Err(other),
            }
        }
        Err(error)
    }
}

/// A duration such as `10 s`, `10 min` or `0.5 s`.
fn duration(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds >= 60 && seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        _ => format!("{} s", (100.0 * time.as_secs_f64()).round() / 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_their_unit() {
        let all = [10_000, 600_000, 500, 90_000, 133].map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(all, ["10 s", "10 min", "0.5 s", "90 s", "0.13 s"]);
    }
}
