//! Choice of the checkpoint from which a run is resumed.
use super::files::{self, CheckpointName};
use super::{Checkpoint, read};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Checkpoint chosen for resuming, and the unusable newer ones.
pub struct NewestCheckpoint {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Its file.
    pub path: PathBuf,
    /// For each better candidate that cannot be used, its file and the reason.
    pub passed_over: Vec<String>,
}

/// The newest checkpoint in a folder that can be read and that `accept` accepts; `None` if the folder has no checkpoints. `last` and the
/// recovery checkpoints come first, from the newest to the oldest; then the checkpoint of the latest ranked epoch, and `best`.
///
/// # Errors
/// If there are checkpoints but none can be used; the error lists the reasons.
pub fn newest_accepted(
    folder: &Path,
    accept: &dyn Fn(&Checkpoint) -> Result<()>,
) -> Result<Option<NewestCheckpoint>> {
    let mut passed_over = vec![];
    let mut usable: Vec<(CheckpointName, Checkpoint)> = vec![];
    let names = files::list(folder);
    let is_recent =
        |name: &CheckpointName| matches!(name, CheckpointName::Last | CheckpointName::Recovery(..));
    let (recent, older): (Vec<_>, Vec<_>) = names.iter().copied().partition(is_recent);
    if !names.is_empty() && !names.contains(&CheckpointName::Last) {
        passed_over.push("last.safetensors is missing".to_string());
    }
    for group in [recent, older] {
        for name in group {
            let path = name.path(folder);
            match read(&path).and_then(|checkpoint| accept(&checkpoint).map(|()| checkpoint)) {
                Ok(checkpoint) => usable.push((name, checkpoint)),
                Err(error) => passed_over.push(reason(&path, &error)),
            }
        }
        let progress = |checkpoint: &Checkpoint| {
            let state = &checkpoint.header.state;
            (state.epoch, state.batch)
        };
        // Of equal states, the first name in order, which is `last` if it is among them.
        let newest = usable
            .drain(..)
            .reduce(|newest, other| if progress(&other.1) > progress(&newest.1) { other } else { newest });
        if let Some((name, checkpoint)) = newest {
            return Ok(Some(NewestCheckpoint { checkpoint, path: name.path(folder), passed_over }));
        }
    }
    if names.is_empty() {
        return Ok(None);
    }
    Err(Error::checkpoint("no checkpoint of this run can be used")
        .at_path(folder)
        .because(passed_over.join("\n"))
        .remedy("restore one of them from a copy, or start over without --resume"))
}

/// The newest checkpoint in a folder that can be read; see [`newest_accepted`].
pub fn newest(folder: &Path) -> Result<Option<NewestCheckpoint>> {
    newest_accepted(folder, &|_| Ok(()))
}

fn reason(path: &Path, error: &Error) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("{name}: {}", error.why().unwrap_or(error.what()))
}
