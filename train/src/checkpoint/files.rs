//! Names of the files in a run's `checkpoints/` folder.
use std::path::{Path, PathBuf};

const SUFFIX: &str = ".safetensors";

/// Checkpoint of a run by its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckpointName {
    /// `last`: the latest state.
    Last,
    /// `best`: the best epoch.
    Best,
    /// `checkpoint-EPOCH`: an epoch among the best.
    Ranked(u32),
    /// `recovery-EPOCH-BATCH`: the state after a batch, counted from 0.
    Recovery(u32, usize),
}

impl CheckpointName {
    /// The file in a folder of checkpoints.
    pub fn path(self, folder: &Path) -> PathBuf {
        let stem = match self {
            CheckpointName::Last => "last".to_string(),
            CheckpointName::Best => "best".to_string(),
            CheckpointName::Ranked(epoch) => format!("checkpoint-{epoch}"),
            CheckpointName::Recovery(epoch, batch) => format!("recovery-{epoch}-{batch}"),
        };
        folder.join(stem + SUFFIX)
    }

    /// The checkpoint with this file name, if it is one.
    pub fn parse(file_name: &str) -> Option<CheckpointName> {
        let stem = file_name.strip_suffix(SUFFIX)?;
        let parts: Vec<&str> = stem.split('-').collect();
        let name = match parts[..] {
            ["last"] => CheckpointName::Last,
            ["best"] => CheckpointName::Best,
            ["checkpoint", epoch] => CheckpointName::Ranked(epoch.parse().ok()?),
            ["recovery", epoch, batch] => CheckpointName::Recovery(epoch.parse().ok()?, batch.parse().ok()?),
            _ => return None,
        };
        // Such as `checkpoint-007`.
        (name.path(Path::new("")).to_str() == Some(file_name)).then_some(name)
    }
}

/// The checkpoints in a folder, in order; empty if the folder cannot be read.
pub fn list(folder: &Path) -> Vec<CheckpointName> {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut found: Vec<_> = names.filter_map(|name| CheckpointName::parse(name.to_str()?)).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_other_files_are_not() {
        for name in [
            CheckpointName::Last,
            CheckpointName::Best,
            CheckpointName::Ranked(12),
            CheckpointName::Recovery(3, 40),
        ] {
            let path = name.path(Path::new("a"));
            let file = path.file_name().and_then(|name| name.to_str()).expect("a name");
            assert_eq!(CheckpointName::parse(file), Some(name));
        }
        for other in
            ["last", "checkpoint-.safetensors", "checkpoint-01.safetensors", ".last.safetensors.7.tmp"]
        {
            assert_eq!(CheckpointName::parse(other), None, "{other}");
        }
    }
}
