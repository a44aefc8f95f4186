//! Files that are there whole or not at all, even after a power cut.
use crate::{Error, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Replaces the file at `path`: written under a temporary name beside it, flushed to the disk, renamed, and the folder
/// flushed too. Until the new file is durable, the old one stays.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let attempt = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // A bare name lies in the current folder.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    attempt().map_err(|error| {
        // What is left of the attempt is of no use; failing to remove it changes nothing about the error.
        fs::remove_file(&temporary).ok();
        Error::disk("a file cannot be written")
            .at_path(path)
            .because(error)
            .remedy("free some space or make the folder writable, then start again")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        write(&path, b"one").expect("writes");
        write(&path, b"two").expect("writes");
        assert_eq!(fs::read(&path).expect("reads"), b"two");
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1);
    }

    #[test]
    fn a_failure_keeps_the_old_and_names_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("taken");
        // A folder with something in it cannot be replaced by a file.
        fs::create_dir_all(target.join("inside")).expect("creates");
        let error = write(&target, b"one").expect_err("cannot replace a folder");
        assert_eq!(error.kind(), crate::error::Kind::Disk);
        assert!(error.to_string().contains("taken"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1);
    }
}
