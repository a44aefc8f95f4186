//! Downloads into the cache: resumed where they were cut off, checked before anybody sees them.
use super::http::{Client, Failure, Metadata, Rest};
use super::{Hub, Repository};
use crate::checkpoint::durable;
use crate::report::Transfer;
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Attempts in a row that may fail without a byte having arrived.
const ATTEMPTS: u32 = 4;

/// Downloads a file of a repository; the path in its snapshot.
pub fn download(hub: &Hub, repository: &Repository, file: &str) -> Result<PathBuf> {
    let job = Job { hub, repository, file, client: Client::new(hub) };
    let found = job.patiently(|| {
        job.client.metadata(&format!("{}/resolve/{}/{file}", repository.id, repository.revision))
    })?;
    let folder = hub.folder(repository);
    let snapshot = folder.join("snapshots").join(&found.commit).join(file);
    let blob = folder.join("blobs").join(&found.etag);
    let disk = |e: io::Error| cannot_write(&folder, e);
    for path in [&snapshot, &blob] {
        fs::create_dir_all(path.parent().unwrap_or(&folder)).map_err(disk)?;
    }
    let _lock = lock(hub, &folder, &found.etag).map_err(disk)?;
    if !blob.is_file() {
        job.fetch(&found, &blob)?;
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

struct Job<'a> {
    hub: &'a Hub,
    repository: &'a Repository,
    file: &'a str,
    client: Client<'a>,
}

impl Job<'_> {
    /// Brings the contents to `blob`, by way of a file beside it that a later attempt or run goes on with.
    fn fetch(&self, found: &Metadata, blob: &Path) -> Result<()> {
        let incomplete = blob.with_file_name(format!("{}.incomplete", found.etag));
        let transfer = Transfer::start(&format!("{} {}", self.repository, self.file), found.size);
        let disk = |e: io::Error| cannot_write(&incomplete, e);
        let mut failures = 0;
        loop {
            let mut partial = OpenOptions::new().append(true).create(true).open(&incomplete).map_err(disk)?;
            let mut there = partial.metadata().map_err(disk)?.len();
            if found.size.is_some_and(|size| there > size) {
                partial.set_len(0).map_err(disk)?;
                there = 0;
            }
            if there > 0 && Some(there) == found.size {
                break;
            }
            let before = there;
            let why = match self.client.rest(found, there) {
                Ok(rest) => {
                    if rest.start != there {
                        partial.set_len(0).map_err(disk)?;
                        there = 0;
                    }
                    match copy(rest, &mut partial, &mut there, found.size, &transfer).map_err(disk)? {
                        None => break,
                        Some(why) => why,
                    }
                }
                // More is there than the server has: what is there is of no use.
                Err(Failure::Final(status)) if status.as_u16() == 416 && there > 0 => {
                    partial.set_len(0).map_err(disk)?;
                    status.to_string()
                }
                Err(failure) => self.passing(failure)?,
            };
            failures = if there > before { 1 } else { failures + 1 };
            self.wait(failures, why)?;
        }
        self.verify(found, &incomplete)?;
        let durable = || {
            File::open(&incomplete)?.sync_all()?;
            fs::rename(&incomplete, blob)?;
            File::open(blob.parent().unwrap_or(blob))?.sync_all()
        };
        durable().map_err(disk)
    }

    /// Checks the size, and the SHA-256 where the hub names contents by it; removes what is wrong.
    fn verify(&self, found: &Metadata, path: &Path) -> Result<()> {
        let mut hasher = Sha256::new();
        let mut file = File::open(path).map_err(|e| cannot_write(path, e))?;
        let size = io::copy(&mut file, &mut hasher).map_err(|e| cannot_write(path, e))?;
        let hash: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let is_hash = found.etag.len() == 64 && found.etag.bytes().all(|b| b.is_ascii_hexdigit());
        let why = match found.size {
            Some(expected) if expected != size => {
                format!("{size} bytes arrived, the hub speaks of {expected}")
            }
            _ if is_hash && found.etag.to_lowercase() != hash => {
                format!("its SHA-256 is {hash}, the hub speaks of {}", found.etag)
            }
            _ => return Ok(()),
        };
        // A failure to remove it would show again when it is written next.
        fs::remove_file(path).ok();
        Err(self
            .failed(why)
            .remedy("try again; if it stays so, something between here and the hub changes the file"))
    }

    /// Tries as often as it makes sense.
    fn patiently<T>(&self, attempt: impl Fn() -> std::result::Result<T, Failure>) -> Result<T> {
        let mut failures = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => {
                    failures += 1;
                    self.wait(failures, self.passing(failure)?)?;
                }
            }
        }
    }

    /// Waits longer after each failure, until it was one too many.
    fn wait(&self, failures: u32, why: String) -> Result<()> {
        if failures >= ATTEMPTS {
            return Err(self.failed(format!("{why}, {failures} times in a row")).remedy(
                "check the network, HTTPS_PROXY and HF_ENDPOINT and start again: it goes on where it stopped; or name a file with --weights FILE",
            ));
        }
        std::thread::sleep(self.hub.patience * 2u32.pow(failures - 1));
        Ok(())
    }

    /// Why another attempt may succeed, or the error that none will.
    fn passing(&self, failure: Failure) -> Result<String> {
        match failure {
            Failure::Passing(why) => Ok(why),
            Failure::Senseless(why) => {
                Err(self.failed(why).remedy("check HF_ENDPOINT, or name a file with --weights FILE"))
            }
            Failure::Final(status) => Err(self.failed(format!("the server answers {status}")).remedy(match status.as_u16() {
                401 | 403 if self.hub.token.is_some() => {
                    "the token in HF_TOKEN does not open it: ask for access on the hub, or name a file with --weights FILE"
                }
                401 | 403 => "it is private, gated or does not exist: check its name, or set HF_TOKEN",
                404 => "check the name, the revision and that it holds this file; or name a file with --weights FILE",
                _ => "check HF_ENDPOINT, or name a file with --weights FILE",
            })),
        }
    }

    fn failed(&self, why: String) -> Error {
        let place = format!("{}/{}", self.hub.endpoint, self.repository);
        Error::checkpoint(format!("{} cannot be downloaded", self.file)).at(place).because(why)
    }
}

/// Appends what arrives; nothing when it arrived whole, else why it ended.
fn copy(
    mut rest: Rest,
    file: &mut File,
    there: &mut u64,
    size: Option<u64>,
    transfer: &Transfer,
) -> io::Result<Option<String>> {
    let size = size.or(rest.size);
    let mut buffer = vec![0; 1 << 18];
    loop {
        transfer.at(*there);
        match rest.body.read(&mut buffer) {
            Ok(0) if size.is_none_or(|size| *there >= size) => return Ok(None),
            Ok(0) => return Ok(Some(format!("the connection ended after {there} bytes"))),
            Ok(n) => {
                file.write_all(&buffer[..n])?;
                *there += n as u64;
                if size.is_some_and(|size| *there > size) {
                    return Ok(None);
                }
            }
            Err(error) => return Ok(Some(format!("{error} after {there} bytes"))),
        }
    }
}

/// Keeps other processes from downloading the same contents meanwhile.
fn lock(hub: &Hub, folder: &Path, etag: &str) -> io::Result<File> {
    let locks = hub.cache.join(".locks").join(folder.file_name().unwrap_or_default());
    fs::create_dir_all(&locks)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(locks.join(format!("{etag}.lock")))?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another process that downloads the same file");
        file.lock()?;
    }
    Ok(file)
}

/// The snapshot's entry: a relative link, so that the cache can be moved; a copy where there are no links.
fn link(etag: &str, blob: &Path, snapshot: &Path) -> io::Result<()> {
    // A link to contents that are gone.
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
    Error::disk("the hub's cache cannot be written")
        .at_path(path)
        .because(why)
        .remedy("free some space, or name another folder with HF_HUB_CACHE")
}
