//! Datasets of image files.
use super::dataset::{Dataset, ImageHead, SampleImage};
use super::decode::MAX_FILE_BYTES;
use super::paths::PathList;
use crate::error::{ErrorKind, too_many_files_are_open};
use crate::{Error, Result};
use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Dataset of image files, which are read when they are accessed.
#[derive(Clone, Debug)]
pub struct FileDataset {
    /// Folder of the relative paths.
    folder: PathBuf,
    paths: PathList,
    targets: Vec<u32>,
    classes: Arc<[String]>,
}

impl FileDataset {
    /// Creates a dataset of the files at `paths` in `folder` (absolute paths are allowed), with a target for each.
    pub fn new(folder: &Path, paths: PathList, targets: Vec<u32>, classes: Arc<[String]>) -> FileDataset {
        assert_eq!(paths.len(), targets.len(), "a target for each path");
        FileDataset { folder: folder.into(), paths, targets, classes }
    }

    fn path(&self, index: usize) -> PathBuf {
        self.folder.join(self.paths.get(index))
    }
}

/// Reads an image file. Errors if it is missing, not a regular file, or larger than any image may be.
pub fn read_image_file(path: &Path) -> Result<Vec<u8>> {
    Ok(read_image_head(path, MAX_FILE_BYTES as usize)?.bytes.into_owned())
}

/// Reads the first bytes of an image file, at most `limit`. Errors as [`read_image_file`].
pub fn read_image_head(path: &Path, limit: usize) -> Result<ImageHead<'static>> {
    let what = "the image cannot be read";
    let unreadable = |e: std::io::Error| Error::unreadable(ErrorKind::Data, what, path, &e);
    let fail =
        |why: String| Error::data(what).at_path(path).because(why).remedy("replace the file, or omit it");
    // Before it is opened: opening a FIFO waits for a writer.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(fail("it is not a regular file".into()));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(fail(format!("it has {} bytes; at most {MAX_FILE_BYTES} are read", metadata.len())));
    }
    let mut bytes = Vec::with_capacity(limit.min(metadata.len() as usize));
    // The size alone needs no open file.
    if limit > 0 {
        let file = retried(OPEN_LIMIT, || File::open(path)).map_err(unreadable)?;
        file.take(limit as u64).read_to_end(&mut bytes).map_err(unreadable)?;
    }
    Ok(ImageHead { bytes: Cow::Owned(bytes), file_size: metadata.len() })
}

/// Limit and interval of the attempts to open a file while too many files are open.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
const OPEN_INTERVAL: Duration = Duration::from_millis(20);

/// The result of `open`, which is called again for a while if too many files are open.
fn retried<T>(limit: Duration, mut open: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match open() {
            Err(error) if too_many_files_are_open(&error) && Instant::now() < deadline => {
                std::thread::sleep(OPEN_INTERVAL);
            }
            other => return other,
        }
    }
}

impl Dataset for FileDataset {
    fn len(&self) -> usize {
        self.targets.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn target(&self, index: usize) -> u32 {
        self.targets[index]
    }

    fn image(&self, index: usize) -> Result<SampleImage<'_>> {
        Ok(SampleImage::Encoded(Cow::Owned(read_image_file(&self.path(index))?)))
    }

    fn image_heads(&self, index: usize, limit: usize) -> Result<Vec<ImageHead<'_>>> {
        Ok(vec![read_image_head(&self.path(index), limit)?])
    }

    fn location(&self, index: usize) -> String {
        self.path(index).display().to_string()
    }

    fn crc32c(&self) -> u32 {
        let append = |sum, target: &u32| crc32c::crc32c_append(sum, &target.to_le_bytes());
        self.targets.iter().fold(self.paths.crc32c(), append)
    }
}

/// Files directly in a folder whose name ends in an extension, in any case, sorted.
pub(super) fn files_with_extension(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|e| {
        Error::data("the folder cannot be read").at_path(folder).because(e).remedy("check its permissions")
    })?;
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension)) && path.is_file())
        .collect();
    paths.sort();
    Ok(paths)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use std::io;

    #[test]
    fn file_is_opened_again_while_too_many_are_open() {
        let attempts = |limit: u64, mut results: Vec<io::Result<u8>>| {
            let mut calls = 0;
            let result = retried(Duration::from_millis(limit), || {
                calls += 1;
                if results.len() > 1 { results.pop().expect("a result") } else { Err(Errno::NFILE.into()) }
            });
            (result.map_err(|error| error.raw_os_error()), calls)
        };
        let full = || Err(Errno::MFILE.into());
        assert_eq!(attempts(60_000, vec![full(), Ok(5), full(), full()]), (Ok(5), 3));
        let code = |errno: Errno| Err(Some(errno.raw_os_error()));
        let other = || Err(Errno::ACCESS.into());
        assert_eq!(attempts(60_000, vec![full(), other(), full()]), (code(Errno::ACCESS), 2));
        let (result, calls) = attempts(50, vec![full()]);
        assert!(result == code(Errno::NFILE) && calls > 1, "{result:?} after {calls}");
    }

    #[test]
    fn fifo_is_rejected_without_waiting_for_a_writer() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("1.png");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo starts");
        assert!(made.success());
        let error = read_image_file(&path).expect_err("a FIFO").to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}
