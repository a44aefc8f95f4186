//! Folder of a run that may be moved or removed while the run writes to it.
use super::appended::is_at;
use super::{FOLDERS, cannot_write};
use crate::checkpoint::{LOCK_FILE, RunLock};
use crate::error::DiskFailure;
use crate::{Error, Result};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Path of a run's folder, with its lock. If the folder is moved or removed, a new one takes its place.
#[derive(Debug)]
pub struct RunLocation {
    path: PathBuf,
    /// The open folder, which shows where it was moved; absent where a folder cannot be opened as a file.
    folder: Option<File>,
    /// Path by which the system knew the open folder at first. Some network file systems change the identity of a folder that is the same.
    first_path: Option<PathBuf>,
    _lock: RunLock,
}

impl RunLocation {
    /// Watches a locked folder at an absolute path.
    pub fn new(path: PathBuf, lock: RunLock) -> RunLocation {
        let folder = File::open(&path).ok();
        let first_path = folder.as_ref().and_then(path_of);
        RunLocation { path, folder, first_path, _lock: lock }
    }

    /// Absolute path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a new folder if the run's folder was moved or removed; returns a warning that says so. Also creates its folders that were
    /// removed.
    ///
    /// # Errors
    /// If the folder above it does not exist either, or if another folder with files has its path.
    pub fn restore(&mut self) -> Result<Option<String>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        if is_at(folder, &self.path) || self.first_path.is_some() && path_of(folder) == self.first_path {
            self.create_folders()?;
            return Ok(None);
        }
        let moved_to = path_of(folder).filter(|path| is_at(folder, path));
        let happened = match &moved_to {
            Some(_) => "the run's folder was moved while the run trains",
            None => "the run's folder was removed while the run trains",
        };
        let earlier = match &moved_to {
            Some(to) => format!("its files until now are in {}", to.display()),
            None => "its files until now are lost".to_string(),
        };
        let fail = |why: String, remedy: String| {
            Error::disk(happened)
                .at_path(&self.path)
                .because(format!("{earlier}; {why}"))
                .remedy(remedy)
                .with_disk_failure(DiskFailure::NoFolder)
        };
        match fs::create_dir(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let above = self.path.parent().unwrap_or(&self.path).display();
                return Err(fail(format!("{above} does not exist"), format!("create {above}")));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_unused(&self.path) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let remedy = "move it away".to_string();
                return Err(fail("another file or folder has its path".into(), remedy));
            }
            Err(error) => return Err(cannot_write(happened, &self.path, &error)),
        }
        let lock = RunLock::acquire(&self.path)?;
        *self = RunLocation::new(std::mem::take(&mut self.path), lock);
        self.create_folders()?;
        let path = self.path.display();
        Ok(Some(format!("warning: {happened}: it continues in a new folder at {path}; {earlier}")))
    }

    fn create_folders(&self) -> Result<()> {
        for folder in FOLDERS.map(|name| self.path.join(name)) {
            if !folder.is_dir() {
                fs::create_dir(&folder)
                    .map_err(|error| cannot_write("the run's folder cannot be written", &folder, &error))?;
            }
        }
        Ok(())
    }
}

/// True for a folder without files, besides a lock.
fn is_unused(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|entries| entries.flatten().all(|entry| entry.file_name() == LOCK_FILE))
}

/// Path of an open folder, with a note at its end if it was removed; `None` if the system does not tell.
fn path_of(folder: &File) -> Option<PathBuf> {
    #[cfg(target_os = "linux")]
    let path = {
        use std::os::fd::AsRawFd;
        fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())).ok()
    };
    #[cfg(target_os = "macos")]
    let path = {
        use std::os::unix::ffi::OsStringExt;
        let path = rustix::fs::getpath(folder).ok();
        path.map(|path| PathBuf::from(std::ffi::OsString::from_vec(path.into_bytes())))
    };
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    let path = Some(folder).and(None);
    path
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn run(root: &Path) -> RunLocation {
        let path = fs::canonicalize(root).expect("exists").join("above/run");
        fs::create_dir_all(&path).expect("creates");
        let lock = RunLock::acquire(&path).expect("locks");
        let mut location = RunLocation::new(path, lock);
        assert_eq!(location.restore().expect("exists"), None);
        location
    }

    #[test]
    fn removed_folder_is_created_again_and_locked() {
        let root = tempfile::tempdir().expect("a folder");
        let mut location = run(root.path());
        let path = location.path().to_path_buf();
        fs::remove_dir_all(path.join("plots")).expect("removes");
        assert_eq!(location.restore().expect("creates"), None);
        assert!(path.join("plots").is_dir());
        fs::remove_dir_all(&path).expect("removes");
        let warning = location.restore().expect("creates").expect("a warning");
        assert!(warning.contains("was removed") && warning.contains("lost"), "{warning}");
        assert!(path.join("checkpoints").is_dir());
        RunLock::acquire(&path).expect_err("locked by the run");
        assert_eq!(location.restore().expect("exists"), None);
    }

    #[cfg(any(target_os = "linux", target_os = "macos"))]
    #[test]
    fn moved_folder_is_named_and_replaced() {
        let root = tempfile::tempdir().expect("a folder");
        let mut location = run(root.path());
        let path = location.path().to_path_buf();
        let moved = path.with_file_name("moved");
        fs::rename(&path, &moved).expect("moves");
        let warning = location.restore().expect("creates").expect("a warning");
        assert!(warning.contains("was moved") && warning.contains(&moved.display().to_string()), "{warning}");
        assert!(path.join("checkpoints").is_dir() && moved.join("checkpoints").is_dir());
        // Another folder has the path.
        fs::rename(&path, path.with_file_name("again")).expect("moves");
        fs::rename(&moved, &path).expect("moves");
        let text = location.restore().expect_err("taken").to_string();
        assert!(text.contains("another file or folder has its path") && text.contains("again"), "{text}");
    }

    #[test]
    fn missing_folder_above_is_an_error_with_the_remedy() {
        let root = tempfile::tempdir().expect("a folder");
        let mut location = run(root.path());
        let above = location.path().parent().expect("a parent").to_path_buf();
        fs::remove_dir_all(&above).expect("removes");
        let error = location.restore().expect_err("no place");
        assert_eq!(error.kind().exit_code(), 7);
        let text = error.to_string();
        assert!(text.contains("was removed while the run trains") && text.contains("create "), "{text}");
        fs::create_dir(&above).expect("creates");
        assert!(location.restore().expect("creates").is_some());
    }
}
