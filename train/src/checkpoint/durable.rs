//! Atomic and durable file writes: after a power cut a file is complete or absent.
use super::space::free_bytes;
use crate::error::DiskFailure;
use crate::run_files::{cannot_write, regular};
use crate::{Error, Result};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Replaces the file at `path` atomically: writes a temporary file next to it, fsyncs it, renames it, and fsyncs the folder. Until then
/// the old file is kept. Of a symbolic link the target is replaced; a path that is not a regular file is an error.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, bytes, &mut |_| Ok(()))
}

/// As [`write()`]. While the disk is full, `make_room` removes a file and the write is attempted again; it returns false if it removes
/// nothing.
pub fn write_making_room(path: &Path, bytes: &[u8], make_room: &mut dyn FnMut() -> bool) -> Result<()> {
    loop {
        match attempt(path, bytes, &mut |_| Ok(())) {
            Err(error) if is_full(&error) && make_room() => {}
            result => return result.map_err(|error| unwritable(path, bytes, &error)),
        }
    }
}

/// True if removing files may help.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes `path` a hard link to `existing`, which holds `bytes`: atomically, as [`write()`], and without space on the disk. Where the file system
/// has no such links, the bytes are written instead. As files are only ever replaced, never written in place, a link keeps its content
/// when the other is replaced.
pub fn link(existing: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    match attempt_link(existing, path) {
        Ok(()) => Ok(()),
        Err(_) => write(path, bytes),
    }
}

fn attempt_link(existing: &Path, path: &Path) -> io::Result<()> {
    let (existing, path) = (&link_target(existing)?, &link_target(path)?);
    check_regular(path)?;
    let temporary = temporary(path);
    let linked = fs::hard_link(existing, &temporary).and_then(|()| fs::rename(&temporary, path));
    // Also after a success: renaming a link over another link of the same file leaves both.
    fs::remove_file(&temporary).ok();
    linked.and_then(|()| sync_folder(path))
}

/// Temporary name next to a file.
pub fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

/// Syncs the folder of a file.
fn sync_folder(path: &Path) -> io::Result<()> {
    // A path without a folder is in the current folder.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// The name of the file that a temporary file `.NAME.PROCESS.tmp` was to replace; `None` for other names.
pub fn target_of_temporary(name: &str) -> Option<&str> {
    let (target, process) = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
    process.parse::<u32>().ok().map(|_| target)
}

/// Bytes per write call.
const CHUNK: usize = 1 << 20;

/// Step of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteStep {
    Create,
    Write,
    Sync,
    Rename,
    SyncFolder,
}

/// [`write`] with a function that is called before every step and can make it fail.
fn write_with(path: &Path, bytes: &[u8], before: &mut dyn FnMut(WriteStep) -> io::Result<()>) -> Result<()> {
    attempt(path, bytes, before).map_err(|error| unwritable(path, bytes, &error))
}

/// Space that a new file needs besides its bytes: its blocks, and the lines of a log.
pub const MARGIN: u64 = 64 << 10;

fn unwritable(path: &Path, bytes: &[u8], error: &io::Error) -> Error {
    let unwritable = cannot_write("the file cannot be written", path, error);
    if !is_full(error) {
        return unwritable;
    }
    let folder = path.parent().unwrap_or(path);
    let free = free_bytes(folder).unwrap_or(0);
    let missing = (bytes.len() as u64 + MARGIN).saturating_sub(free).max(MARGIN);
    let megabytes = missing.div_ceil(1_000_000);
    unwritable
        .with_disk_failure(DiskFailure::NoSpace)
        .remedy(format!("free {megabytes} MB in {}", folder.display()))
}

/// Errors if the path exists and is not a regular file.
fn check_regular(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            let why = format!("it is {}, not a regular file", regular::kind(&found));
            Err(io::Error::new(io::ErrorKind::InvalidInput, why))
        }
        _ => Ok(()),
    }
}

fn attempt(path: &Path, bytes: &[u8], before: &mut dyn FnMut(WriteStep) -> io::Result<()>) -> io::Result<()> {
    let path = &link_target(path)?;
    check_regular(path)?;
    let temporary = temporary(path);
    let mut replace = || {
        before(WriteStep::Create)?;
        let mut file = create_temporary(&temporary)?;
        for chunk in bytes.chunks(CHUNK) {
            before(WriteStep::Write)?;
            file.write_all(chunk)?;
        }
        before(WriteStep::Sync)?;
        file.sync_all()?;
        before(WriteStep::Rename)?;
        fs::rename(&temporary, path)
    };
    if let Err(error) = replace() {
        // Best effort: the write error is the one to report.
        fs::remove_file(&temporary).ok();
        return Err(error);
    }
    before(WriteStep::SyncFolder)?;
    sync_folder(path)
}

/// Creates a temporary file; one of an earlier process with the same number, or a link in its place, is removed.
pub fn create_temporary(path: &Path) -> io::Result<File> {
    match regular::create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            regular::create_new(path)
        }
        created => created,
    }
}

/// The file to which a chain of symbolic links leads, which need not exist; `path` itself if it is no link.
pub(crate) fn link_target(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    // As many links as Linux follows.
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many levels of symbolic links"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> usize {
        fs::read_dir(folder).expect("lists").count()
    }

    #[test]
    fn temporary_names_have_a_target() {
        assert_eq!(target_of_temporary(".args.yaml.12.tmp"), Some("args.yaml"));
        for other in ["args.yaml", ".args.yaml.tmp", "args.yaml.12.tmp", ".lock"] {
            assert_eq!(target_of_temporary(other), None, "{other}");
        }
    }

    #[test]
    fn write_replaces_file_and_leaves_no_temporary() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        write(&path, b"one").expect("writes");
        write(&path, b"two").expect("writes");
        assert_eq!(fs::read(&path).expect("reads"), b"two");
        assert_eq!(entries(folder.path()), 1);
    }

    /// Every write, fsync and rename fails once, with a full disk and with an I/O error.
    #[test]
    fn failed_step_keeps_a_whole_file_and_no_temporary() {
        let old = vec![1u8; 3 * CHUNK / 2];
        let new = vec![2u8; 5 * CHUNK / 2];
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        let mut steps = vec![];
        let mut record = |step| {
            steps.push(step);
            Ok(())
        };
        write_with(&path, &new, &mut record).expect("writes");
        use WriteStep::*;
        assert_eq!(steps, [Create, Write, Write, Write, Sync, Rename, SyncFolder]);
        for failure in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
            for failing in 0..steps.len() {
                write(&path, &old).expect("writes");
                let mut count = 0;
                let error = write_with(&path, &new, &mut |_| {
                    count += 1;
                    if count == failing + 1 { Err(failure.into()) } else { Ok(()) }
                })
                .expect_err("the step fails");
                assert_eq!(error.kind(), crate::error::ErrorKind::Disk);
                let kept = fs::read(&path).expect("reads");
                assert!(kept == if steps[failing] == SyncFolder { &new[..] } else { &old[..] }, "{failing}");
                assert_eq!(entries(folder.path()), 1, "{failing}");
            }
        }
        eprintln!("C4: {} failing steps, each with a full disk and an I/O error", steps.len());
    }

    #[cfg(unix)]
    #[test]
    fn linked_file_shares_its_space_and_keeps_its_content() {
        use std::os::unix::fs::{MetadataExt, symlink};
        let folder = tempfile::tempdir().expect("a folder");
        let [a, b, c] = ["a", "b", "c"].map(|name| folder.path().join(name));
        let inode = |path: &Path| fs::metadata(path).expect("exists").ino();
        write(&a, b"one").expect("writes");
        write(&b, b"old").expect("writes");
        for _ in 0..2 {
            link(&a, &b, b"one").expect("links");
            assert_eq!((inode(&a), fs::read(&b).expect("reads")), (inode(&b), b"one".to_vec()));
            assert_eq!(entries(folder.path()), 2);
        }
        write(&a, b"two").expect("writes");
        assert_eq!(fs::read(&b).expect("reads"), b"one", "a file is replaced, not written in place");
        // A link across file systems is not possible: the bytes are written.
        if Path::new("/dev/shm").is_dir()
            && fs::metadata("/dev/shm").expect("exists").dev()
                != fs::metadata(folder.path()).expect("exists").dev()
        {
            let other = tempfile::tempdir_in("/dev/shm").expect("a folder");
            symlink(other.path().join("c"), &c).expect("links");
            link(&a, &c, b"two").expect("writes");
            assert_eq!(fs::read(other.path().join("c")).expect("reads"), b"two");
        }
        let error = link(&folder.path().join("absent"), &folder.path().join("no/folder"), b"")
            .expect_err("no folder");
        assert_eq!(error.kind(), crate::error::ErrorKind::Disk);
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
        assert_eq!(entries(folder.path()), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_devices_are_not_replaced() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().expect("a folder");
        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        symlink("target", &link).expect("links");
        write(&link, b"one").expect("writes");
        assert!(fs::symlink_metadata(&link).expect("exists").is_symlink());
        assert_eq!(fs::read(&target).expect("reads"), b"one");
        // A link in the place of the temporary file is not followed.
        let other = folder.path().join("other");
        fs::write(&other, "mine").expect("writes");
        symlink(&other, temporary(&target)).expect("links");
        write(&link, b"two").expect("writes");
        assert_eq!(fs::read(&target).expect("reads"), b"two");
        assert_eq!(fs::read(&other).expect("reads"), b"mine");
        let error = write(Path::new("/dev/null"), b"one").expect_err("a device");
        assert!(error.to_string().contains("it is a device, not a regular file"), "{error}");
        let around = folder.path().join("around");
        symlink("around", &around).expect("links");
        assert!(write(&around, b"one").is_err());
    }
}
