//! Disk space of a run, estimated before it starts.
use crate::checkpoint::files;
use crate::checkpoint::history::RECOVERY_CHECKPOINTS;
use crate::checkpoint::space::{file_size_by_id, free_bytes};
use crate::config::Config;
use crate::message::count;
use crate::report::bytes;
use fornax_nn::{Module, state_entries};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Space of plots, samples and logs, generously.
const REPORTS: u64 = 16 << 20;
/// Header and alignment of a checkpoint file, generously.
const HEADER: u64 = 64 << 10;

/// Estimate of the space of a run's files. Checkpoints of one state are hard links, so they count once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DiskEstimate {
    /// Bytes of one checkpoint.
    pub checkpoint_bytes: u64,
    /// Number of checkpoints at the end, the one that is being written included.
    pub checkpoints: u64,
    /// Bytes of all files that are still to be written.
    pub bytes: u64,
    /// Bytes that are free on the file system of the output folder, if known.
    pub free_bytes: Option<u64>,
}

impl DiskEstimate {
    /// The estimate for a run of a model in a folder, which need not exist.
    pub fn new(config: &Config, model: &dyn Module, folder: &Path) -> DiskEstimate {
        let elements: u64 = state_entries(model).iter().map(|entry| entry.tensor.numel() as u64).sum();
        let copies = 1 + config.state_tensors_per_parameter() + u64::from(config.ema.is_some());
        let checkpoint_bytes = 4 * elements * copies + HEADER;
        let evaluations = config.schedule.total_epochs().div_ceil(config.val_interval.max(1));
        let ranked = (config.checkpoint_hist as u64).min(evaluations.into());
        let recovery = if config.recovery_interval > 0 { RECOVERY_CHECKPOINTS as u64 } else { 0 };
        // `last`, and the temporary file of a write.
        let checkpoints = ranked + recovery + 2;
        let needed = (checkpoint_bytes * checkpoints).saturating_sub(existing_bytes(folder)) + REPORTS;
        DiskEstimate { checkpoint_bytes, checkpoints, bytes: needed, free_bytes: free_bytes(folder) }
    }

    /// Warning if the files do not fit.
    pub fn warning(&self, folder: &Path) -> Option<String> {
        let free = self.free_bytes.filter(|free| *free < self.bytes)?;
        Some(format!(
            "warning: the run needs about {} of disk space, and {} are free in {}; lower --checkpoint-hist, or choose another --output",
            bytes(self.bytes),
            bytes(free),
            folder.display()
        ))
    }
}

impl fmt::Display for DiskEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checkpoints = count(self.checkpoints, "checkpoint");
        write!(f, "about {}: {checkpoints} of {}", bytes(self.bytes), bytes(self.checkpoint_bytes))?;
        self.free_bytes.map_or(Ok(()), |free| write!(f, "; {} are free", bytes(free)))
    }
}

/// Bytes of the checkpoints that a run's folder has, links counted once.
fn existing_bytes(folder: &Path) -> u64 {
    let folder = folder.join("checkpoints");
    let paths = files::list(&folder).into_iter().map(|name| name.path(&folder));
    let by_file: BTreeMap<u64, u64> = paths.filter_map(|path| file_size_by_id(&path)).collect();
    by_file.values().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimate_that_does_not_fit_is_a_warning_that_names_the_options() {
        let estimate = DiskEstimate {
            checkpoint_bytes: 1 << 30,
            checkpoints: 12,
            bytes: 12 << 30,
            free_bytes: Some(3 << 30),
        };
        let warning = estimate.warning(Path::new("out")).expect("too large");
        for part in ["needs about 12 GiB", "3.0 GiB are free in out", "--checkpoint-hist", "--output"] {
            assert!(warning.contains(part), "{part} in {warning}");
        }
        assert_eq!(estimate.to_string(), "about 12 GiB: 12 checkpoints of 1.0 GiB; 3.0 GiB are free");
        assert_eq!(DiskEstimate { free_bytes: Some(13 << 30), ..estimate }.warning(Path::new("out")), None);
        assert_eq!(DiskEstimate { free_bytes: None, ..estimate }.warning(Path::new("out")), None);
    }

    #[test]
    fn free_space_is_that_of_the_nearest_existing_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(free_bytes(&folder.path().join("not/yet/made")).expect("known") > 0);
    }
}
