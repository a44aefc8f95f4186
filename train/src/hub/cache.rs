//! Cache on disk: `models--org--name/blobs/HASH` holds contents, `snapshots/COMMIT/FILE` links to them, and `refs/BRANCH` holds the
//! commit of a branch.
use super::{Hub, Repository};
use std::fs;
use std::path::PathBuf;

impl Hub {
    /// Cache folder of a repository.
    pub fn folder(&self, repository: &Repository) -> PathBuf {
        self.cache.join(format!("models--{}", repository.id.replace('/', "--")))
    }

    /// Path of a file in the cache, if it is there.
    pub fn cached(&self, repository: &Repository, file: &str) -> Option<PathBuf> {
        let folder = self.folder(repository);
        let of_branch = fs::read_to_string(folder.join("refs").join(&repository.revision)).ok();
        let commits = [of_branch.as_deref().map(str::trim), Some(repository.revision.as_str())];
        let snapshot =
            |commit: &str| is_plain(commit).then(|| folder.join("snapshots").join(commit).join(file));
        commits.into_iter().flatten().filter_map(snapshot).find(|path| path.is_file())
    }
}

/// True if a name from an untrusted source is safe as a file name.
pub fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !name.starts_with('.')
}
