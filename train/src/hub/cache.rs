//! The cache on disk: `models--org--name/blobs/HASH` holds contents, `snapshots/COMMIT/FILE` are links to them, and `refs/BRANCH` say
//! which commit a branch was at.
use super::{Hub, Repository};
use std::fs;
use std::path::PathBuf;

impl Hub {
    /// The folder of a repository.
    pub fn folder(&self, repository: &Repository) -> PathBuf {
        self.cache.join(format!("models--{}", repository.id.replace('/', "--")))
    }

    /// A file that is in the cache.
    pub fn cached(&self, repository: &Repository, file: &str) -> Option<PathBuf> {
        let folder = self.folder(repository);
        let recorded = fs::read_to_string(folder.join("refs").join(&repository.revision)).ok();
        let commits = [recorded.as_deref().map(str::trim), Some(repository.revision.as_str())];
        let snapshot =
            |commit: &str| is_plain(commit).then(|| folder.join("snapshots").join(commit).join(file));
        commits.into_iter().flatten().filter_map(snapshot).find(|path| path.is_file())
    }
}

/// True for what may be the name of a file, whoever made it up.
pub fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !name.starts_with('.')
}
