//! Atomic and durable file writes: after a power cut a file is complete or absent.
use crate::{Error, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Replaces the file at `path` atomically: writes a temporary file beside it, fsyncs it, renames it, and fsyncs the folder. Until then
/// the old file stays.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let attempt = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // A path without a folder is in the current folder.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    attempt().map_err(|error| {
        // Best effort: the write error is the one to report.
        fs::remove_file(&temporary).ok();
        Error::disk("the file cannot be written")
            .at_path(path)
            .because(error)
            .remedy("free some space or make the folder writable, then start again")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_replaces_file_and_leaves_no_temporary() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        write(&path, b"one").expect("writes");
        write(&path, b"two").expect("writes");
        assert_eq!(fs::read(&path).expect("reads"), b"two");
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1);
    }

    #[test]
    fn failed_write_keeps_old_file_and_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("taken");
        // A non-empty folder cannot be replaced by a file.
        fs::create_dir_all(target.join("inside")).expect("creates");
        let error = write(&target, b"one").expect_err("cannot replace a folder");
        assert_eq!(error.kind(), crate::error::ErrorKind::Disk);
        assert!(error.to_string().contains("taken"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1);
    }
}
