//! Time left of a run, from the speed of its updates and the duration of its evaluations so far.

/// Estimate of the time left. All times are seconds of one clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimeLeft {
    epochs: u32,
    /// Batches per epoch.
    batches: usize,
    /// Start of the part that is being measured: updates or evaluation.
    part_started: f64,
    /// First batch of the epoch in this process.
    first_batch: usize,
    /// Time and batches of finished epochs in this process.
    train_seconds: f64,
    trained_batches: usize,
    /// Time from the last update to the end of the epoch, over finished epochs in this process.
    other_seconds: f64,
    finished_epochs: u32,
}

impl TimeLeft {
    /// Starts the updates of an epoch.
    pub fn epoch_begins(&mut self, epochs: u32, batches: usize, first_batch: usize, now: f64) {
        (self.epochs, self.batches, self.first_batch, self.part_started) =
            (epochs, batches, first_batch, now);
    }

    /// Ends the updates of an epoch.
    pub fn updates_end(&mut self, now: f64) {
        self.train_seconds += now - self.part_started;
        self.trained_batches += self.batches - self.first_batch;
        self.part_started = now;
    }

    /// Ends an epoch: its evaluation and checkpoints.
    pub fn epoch_ends(&mut self, now: f64) {
        self.other_seconds += now - self.part_started;
        self.finished_epochs += 1;
        self.part_started = now;
    }

    /// Seconds left of the run after `batch` batches of `epoch`; `None` before the first one. The first epoch's evaluations are not
    /// included before one has been measured.
    pub fn seconds(&self, epoch: u32, batch: usize, now: f64) -> Option<f64> {
        let batches = self.trained_batches + batch.checked_sub(self.first_batch)?;
        let per_batch = match batches {
            0 => return None,
            count => (self.train_seconds + now - self.part_started) / count as f64,
        };
        let per_epoch = match self.finished_epochs {
            0 => 0.0,
            count => self.other_seconds / f64::from(count),
        };
        let epochs_left = f64::from(self.epochs.saturating_sub(epoch));
        Some(per_batch * (epochs_left * self.batches as f64 - batch as f64) + per_epoch * epochs_left)
    }
}

/// A duration as `M:SS`, `H:MM:SS` or `D d HH h`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.round().max(0.0) as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}:{:02}", seconds % 60),
        (0, _) => format!("{hours}:{minutes:02}:{:02}", seconds % 60),
        _ => format!("{days} d {hours:02} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_that_of_the_whole_run_with_its_evaluations() {
        let mut left = TimeLeft::default();
        left.epoch_begins(3, 10, 0, 100.0);
        assert_eq!(left.seconds(0, 0, 100.0), None);
        // One second per batch: 25 batches are left.
        assert_eq!(left.seconds(0, 5, 105.0), Some(25.0));
        left.updates_end(110.0);
        left.epoch_ends(114.0);
        left.epoch_begins(3, 10, 0, 114.0);
        // 20 batches and two evaluations of four seconds.
        assert_eq!(left.seconds(1, 0, 114.0), Some(28.0));
        left.updates_end(124.0);
        left.epoch_ends(128.0);
        left.epoch_begins(3, 10, 0, 128.0);
        assert_eq!(left.seconds(2, 10, 138.0), Some(4.0));
    }

    #[test]
    fn resumed_epoch_counts_only_its_own_batches() {
        let mut left = TimeLeft::default();
        left.epoch_begins(1, 10, 8, 0.0);
        assert_eq!(left.seconds(0, 9, 2.0), Some(2.0));
    }

    #[test]
    fn durations_have_the_units_they_need() {
        assert_eq!([5.4, 65.0, 3661.0, 90_000.0].map(duration), ["0:05", "1:05", "1:01:01", "1 d 01 h"]);
    }
}
