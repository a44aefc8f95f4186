//! Space of files on a disk.
use std::path::Path;

/// Identity of a file, which its hard links share, and its size in bytes.
#[cfg(unix)]
pub(crate) fn file_size_by_id(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len()))
}

#[cfg(not(unix))]
pub(crate) fn file_size_by_id(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((crc32c::crc32c(path.as_os_str().as_encoded_bytes()).into(), metadata.len()))
}

/// Free bytes of the file system of a folder, or of the nearest folder above it that exists; `None` if it does not report them.
#[cfg(unix)]
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let full = std::path::absolute(folder).ok()?;
    let existing = full.ancestors().find(|folder| folder.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    (stat.f_blocks > 0).then_some(stat.f_bavail * stat.f_frsize)
}

#[cfg(not(unix))]
pub(crate) fn free_bytes(_: &Path) -> Option<u64> {
    None
}
