//! Downloads into the cache: resumed after an interruption, verified before they become visible.
use super::http::{Client, FileContents, Metadata, RequestError};
use super::{GIVE_FILE, Hub, Repository};
use crate::checkpoint::durable;
use crate::error::ErrorKind;
use crate::report::DownloadProgress;
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Maximum number of consecutive failed attempts without progress.
const ATTEMPTS: u32 = 4;

/// Downloads the first of several files that a repository has, and returns its path in the snapshot. Without any of them, the error is about
/// the first one.
pub fn download(hub: &Hub, repository: &Repository, files: &[&str]) -> Result<PathBuf> {
    let mut missing = None;
    for file in files {
        let download = Download::of_repository(hub, repository, file);
        let url = format!("{}/resolve/{}/{file}", repository.id, repository.revision);
        let found = download.with_retries(|| match download.client.metadata(&url) {
            Err(RequestError::Status(status)) if status.as_u16() == 404 => Ok(Err(status)),
            other => other.map(Ok),
        })?;
        match found {
            Ok(found) => return download.save(&found, repository, file),
            Err(status) => {
                missing = missing.or(download.transient_reason(RequestError::Status(status)).err())
            }
        }
    }
    Err(missing.unwrap_or_else(|| Error::checkpoint(format!("no file of {repository} is named"))))
}

/// Downloads a published file of known size and SHA-256 from the first mirror that has it. An interrupted download is resumed; a file
/// that is already there is checked.
pub fn download_published(
    hub: &Hub,
    mirrors: &[&str],
    name: &str,
    size: u64,
    sha256: &str,
    destination: &Path,
) -> Result<()> {
    let mut failure = None;
    for mirror in mirrors {
        let url = format!("{}/{name}", mirror.trim_end_matches('/'));
        let download = Download {
            hub,
            title: name.to_string(),
            what: format!("{name} cannot be downloaded"),
            location: url.clone(),
            kind: ErrorKind::Data,
            alternative: "pass another server with --mirror, or download the file by other means".into(),
            client: Client::new(hub),
        };
        let invalid = |e| match download.transient_reason(e) {
            Ok(why) => download.failed(why),
            Err(error) => error,
        };
        let found = Metadata::of_published_file(&url, size, sha256).map_err(invalid)?;
        if destination.is_file() {
            return download.check(&found, destination);
        }
        match download.fetch(&found, destination) {
            Ok(()) => return Ok(()),
            // A full disk is full for every mirror.
            Err(error) if error.kind() == ErrorKind::Disk => return Err(error),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| Error::usage(format!("{name} has no mirror"))))
}

struct Download<'a> {
    hub: &'a Hub,
    /// Title of the progress display.
    title: String,
    /// What failed, for errors.
    what: String,
    /// Server and file, for errors.
    location: String,
    kind: ErrorKind,
    /// Remedy if the server cannot be used.
    alternative: String,
    client: Client<'a>,
}

impl<'a> Download<'a> {
    /// Download of a file of a repository.
    fn of_repository(hub: &'a Hub, repository: &Repository, file: &str) -> Download<'a> {
        Download {
            hub,
            title: format!("{repository} {file}"),
            what: format!("{file} cannot be downloaded"),
            location: format!("{}/{repository}", hub.endpoint),
            kind: ErrorKind::Checkpoint,
            alternative: format!("check HF_ENDPOINT; or download the file by other means and {GIVE_FILE}"),
            client: Client::new(hub),
        }
    }

    /// Downloads a file of a repository into the cache.
    fn save(&self, found: &Metadata, repository: &Repository, file: &str) -> Result<PathBuf> {
        let folder = self.hub.folder(repository);
        let snapshot = folder.join("snapshots").join(&found.commit).join(file);
        let blob = folder.join("blobs").join(&found.etag);
        let disk = |e: io::Error| cannot_write(&folder, e);
        for path in [&snapshot, &blob] {
            fs::create_dir_all(path.parent().unwrap_or(&folder)).map_err(disk)?;
        }
        let _lock = lock(self.hub, &folder, &found.etag).map_err(disk)?;
        if !blob.is_file() {
            self.fetch(found, &blob)?;
        }
        if !snapshot.is_file() {
            link(&found.etag, &blob, &snapshot).map_err(disk)?;
        }
        if repository.revision != found.commit {
            let reference = folder.join("refs").join(&repository.revision);
            fs::create_dir_all(reference.parent().unwrap_or(&folder)).map_err(disk)?;
            durable::write(&reference, found.commit.as_bytes())?;
        }
        Ok(snapshot)
    }

    /// Downloads the contents to `blob` through an `.incomplete` file, which a later attempt or run resumes.
    fn fetch(&self, found: &Metadata, blob: &Path) -> Result<()> {
        let incomplete = blob.with_file_name(format!("{}.incomplete", found.etag));
        let transfer = DownloadProgress::start(&self.title, found.size);
        let disk = |e: io::Error| cannot_write(&incomplete, e);
        let mut failures = 0;
        loop {
            let mut partial = OpenOptions::new().append(true).create(true).open(&incomplete).map_err(disk)?;
            let mut received = partial.metadata().map_err(disk)?.len();
            if found.size.is_some_and(|size| received > size) {
                partial.set_len(0).map_err(disk)?;
                received = 0;
            }
            if received > 0 && Some(received) == found.size {
                break;
            }
            let before = received;
            let why = match self.client.contents(found, received) {
                Ok(rest) => {
                    if rest.start != received {
                        partial.set_len(0).map_err(disk)?;
                        received = 0;
                    }
                    match copy(rest, &mut partial, &mut received, found.size, &transfer).map_err(disk)? {
                        None => break,
                        Some(why) => why,
                    }
                }
                // Range not satisfiable: the partial file is longer than the server's.
                Err(RequestError::Status(status)) if status.as_u16() == 416 && received > 0 => {
                    partial.set_len(0).map_err(disk)?;
                    status.to_string()
                }
                Err(failure) => self.transient_reason(failure)?,
            };
            failures = if received > before { 1 } else { failures + 1 };
            self.back_off(failures, why)?;
        }
        self.verify(found, &incomplete)?;
        let durable = || {
            File::open(&incomplete)?.sync_all()?;
            fs::rename(&incomplete, blob)?;
            File::open(blob.parent().unwrap_or(blob))?.sync_all()
        };
        durable().map_err(disk)
    }

    /// Checks a file of an earlier download, which stays if it is wrong: it may be the user's own.
    fn check(&self, found: &Metadata, path: &Path) -> Result<()> {
        match self.mismatch(found, path)? {
            None => Ok(()),
            Some(why) => Err(Error::new(self.kind, "a file of the dataset is damaged")
                .at_path(path)
                .because(why)
                .remedy("remove the file and start again")),
        }
    }

    /// Checks the size and, if the etag is one, the SHA-256; removes a wrong file.
    fn verify(&self, found: &Metadata, path: &Path) -> Result<()> {
        let Some(why) = self.mismatch(found, path)? else { return Ok(()) };
        // Best effort: the next write would fail too.
        fs::remove_file(path).ok();
        Err(self.failed(why).remedy(
            "try again; if it fails again, a proxy between this machine and the server changes the file",
        ))
    }

    /// Difference between a file and its announced size and SHA-256, if there is one.
    fn mismatch(&self, found: &Metadata, path: &Path) -> Result<Option<String>> {
        let mut hasher = Sha256::new();
        let unreadable = |e| Error::unreadable(self.kind, "a downloaded file cannot be read", path, &e);
        let mut file = File::open(path).map_err(unreadable)?;
        let size = io::copy(&mut file, &mut hasher).map_err(unreadable)?;
        let hash: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let is_hash = found.etag.len() == 64 && found.etag.bytes().all(|b| b.is_ascii_hexdigit());
        Ok(match found.size {
            Some(expected) if expected != size => {
                Some(format!("it has {size} bytes, {expected} were announced"))
            }
            _ if is_hash && found.etag.to_lowercase() != hash => {
                Some(format!("its SHA-256 is {hash}, {} was announced", found.etag))
            }
            _ => None,
        })
    }

    /// Repeats a request after transient failures.
    fn with_retries<T>(&self, attempt: impl Fn() -> std::result::Result<T, RequestError>) -> Result<T> {
        let mut failures = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => {
                    failures += 1;
                    self.back_off(failures, self.transient_reason(failure)?)?;
                }
            }
        }
    }

    /// Waits after a failure, with exponential backoff. Errors after too many failures.
    fn back_off(&self, failures: u32, why: String) -> Result<()> {
        if failures >= ATTEMPTS {
            return Err(self.failed(format!("{why}, {failures} times in a row")).remedy(format!(
                "check the network and HTTPS_PROXY and start again (the download resumes); or {}",
                self.alternative
            )));
        }
        std::thread::sleep(self.hub.retry_delay * 2u32.pow(failures - 1));
        Ok(())
    }

    /// The reason of a transient failure, or the error for a permanent one.
    fn transient_reason(&self, failure: RequestError) -> Result<String> {
        match failure {
            RequestError::Transient(why) => Ok(why),
            RequestError::InvalidResponse(why) => Err(self.failed(why).remedy(self.alternative.clone())),
            RequestError::Status(status) => {
                let remedy = match status.as_u16() {
                    _ if self.kind == ErrorKind::Data => self.alternative.clone(),
                    401 | 403 if self.hub.token.is_some() => {
                        format!(
                            "the token in HF_TOKEN has no access: ask for access on the hub, or download the file and {GIVE_FILE}"
                        )
                    }
                    401 | 403 => {
                        "it is private, gated or does not exist: check its name, or set HF_TOKEN".into()
                    }
                    404 => format!(
                        "check the name and the revision, and that the repository has this file; or download the file and {GIVE_FILE}"
                    ),
                    _ => self.alternative.clone(),
                };
                Err(self.failed(format!("the server answers {status}")).remedy(remedy))
            }
        }
    }

    fn failed(&self, why: String) -> Error {
        Error::new(self.kind, self.what.clone()).at(&self.location).because(why)
    }
}

/// Appends the response body to the file. Returns `None` once it is complete, else the reason of the interruption.
fn copy(
    mut rest: FileContents,
    file: &mut File,
    received: &mut u64,
    size: Option<u64>,
    transfer: &DownloadProgress,
) -> io::Result<Option<String>> {
    let size = size.or(rest.size);
    let mut buffer = vec![0; 1 << 18];
    loop {
        transfer.set_received(*received);
        match rest.body.read(&mut buffer) {
            Ok(0) if size.is_none_or(|size| *received >= size) => return Ok(None),
            Ok(0) => return Ok(Some(format!("the connection ended after {received} bytes"))),
            Ok(n) => {
                file.write_all(&buffer[..n])?;
                *received += n as u64;
                if size.is_some_and(|size| *received > size) {
                    return Ok(None);
                }
            }
            Err(error) => return Ok(Some(format!("{error} after {received} bytes"))),
        }
    }
}

/// Locks the contents against concurrent downloads by other processes.
fn lock(hub: &Hub, folder: &Path, etag: &str) -> io::Result<File> {
    let locks = hub.cache.join(".locks").join(folder.file_name().unwrap_or_default());
    fs::create_dir_all(&locks)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(locks.join(format!("{etag}.lock")))?;
    if file.try_lock().is_err() {
        message!("waiting for another process to download the same file");
        file.lock()?;
    }
    Ok(file)
}

/// Creates the snapshot's entry: a relative link, so that the cache can be moved, or a copy where links are not supported.
fn link(etag: &str, blob: &Path, snapshot: &Path) -> io::Result<()> {
    // A dangling link.
    if snapshot.is_symlink() {
        fs::remove_file(snapshot)?;
    }
    #[cfg(unix)]
    if std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), snapshot).is_ok() {
        return Ok(());
    }
    fs::copy(blob, snapshot).map(|_| ())
}

fn cannot_write(path: &Path, why: io::Error) -> Error {
    Error::disk("the download cannot be written")
        .at_path(path)
        .because(why)
        .remedy("free some space, or choose another folder (HF_HUB_CACHE, --data-dir)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn failed_read_of_a_downloaded_file_is_not_a_failed_write() {
        let folder = tempfile::tempdir().expect("a folder");
        let hub = Hub {
            cache: folder.path().into(),
            endpoint: "http://localhost".into(),
            token: None,
            offline: false,
            retry_delay: Duration::ZERO,
        };
        let repository = "timm/net".parse().expect("a repository");
        let download = Download::of_repository(&hub, &repository, "model.safetensors");
        let Ok(found) = Metadata::of_published_file("http://localhost/a", 1, "") else {
            panic!("a valid URL")
        };
        // Reading a folder fails.
        let error = download.mismatch(&found, folder.path()).expect_err("no file");
        assert_eq!(error.kind(), ErrorKind::Checkpoint, "{error}");
        assert!(
            error.to_string().contains("cannot be read") && !error.to_string().contains("free some space")
        );
    }
}
