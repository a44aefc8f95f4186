//! Exclusive use of a run's folder.
use crate::run_files::{check_file, regular};
use crate::{Error, Result};
use std::fs::{File, TryLockError};
use std::path::Path;

/// Name of the lock file.
pub const LOCK_FILE: &str = ".lock";

/// Lock of a run's folder. The system releases it when the process ends, even if it is killed.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Locks an existing folder. Errors if another process has it.
    pub fn acquire(folder: &Path) -> Result<RunLock> {
        let path = folder.join(LOCK_FILE);
        let unusable = |error: std::io::Error| {
            Error::disk("the output folder cannot be locked")
                .at_path(&path)
                .because(error)
                .remedy("make the folder writable, or choose one on a file system with locks with --output")
        };
        check_file(folder, &path)?;
        let file = regular::append(&path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(RunLock { _file: file }),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
            Err(TryLockError::WouldBlock) => Err(Error::usage("another process trains in this folder")
                .at_path(folder)
                .remedy("wait until it ends, or choose another --experiment")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn lock_that_is_a_link_out_of_the_folder_is_rejected() {
        let root = tempfile::tempdir().expect("a folder");
        let (run, outside) = (root.path().join("run"), root.path().join("outside"));
        std::fs::create_dir(&run).expect("creates");
        std::os::unix::fs::symlink(&outside, run.join(LOCK_FILE)).expect("links");
        let error = RunLock::acquire(&run).expect_err("leads out of the folder");
        assert!(error.to_string().contains(LOCK_FILE), "{error}");
        assert!(!outside.exists());
    }

    #[test]
    fn second_lock_is_rejected_until_the_first_is_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = RunLock::acquire(folder.path()).expect("free");
        let error = RunLock::acquire(folder.path()).expect_err("taken");
        assert_eq!(error.kind(), crate::error::ErrorKind::Usage);
        drop(first);
        RunLock::acquire(folder.path()).expect("free again");
    }
}
