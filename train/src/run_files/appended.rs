//! Files that grow while a run trains.
use super::regular;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Most bytes that are kept in memory while a file cannot be written.
const MAX_PENDING: usize = 64 << 20;

/// File to which a run appends. Bytes that a full disk rejects are kept in memory, and written first at the next call. A file that was moved
/// or removed is created again.
#[derive(Debug)]
pub struct AppendedFile {
    path: PathBuf,
    /// First bytes of a new file.
    head: Vec<u8>,
    file: File,
    /// Bytes that are not written yet.
    pending: Vec<u8>,
}

impl AppendedFile {
    /// Opens a file, which is created with the bytes `head` if it does not exist or is empty.
    pub fn open(path: PathBuf, head: Vec<u8>) -> io::Result<AppendedFile> {
        let file = regular::append(&path)?;
        let mut opened = AppendedFile { path, head, file, pending: vec![] };
        opened.begin()?;
        Ok(opened)
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends bytes. On failure they are kept in memory, unless there are too many.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.pending.len() + bytes.len() <= MAX_PENDING {
            self.pending.extend_from_slice(bytes);
        }
        self.flush()
    }

    /// Writes the bytes that are kept in memory.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        if !is_at(&self.file, &self.path) {
            self.file = regular::append(&self.path)?;
            self.begin()?;
        }
        let mut written = 0;
        let result = loop {
            // A full disk may take a part of the bytes: the next call continues after it.
            match self.file.write(&self.pending[written..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
            if written == self.pending.len() {
                break Ok(());
            }
        };
        self.pending.drain(..written);
        result
    }

    /// Forgets the bytes that are kept in memory.
    pub fn discard_pending(&mut self) {
        self.pending.clear();
    }

    /// Prepares the first bytes of an empty file.
    fn begin(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() == 0 && !self.head.is_empty() {
            self.pending.splice(..0, self.head.iter().copied());
        }
        Ok(())
    }
}

/// True if an open file is the one at a path.
#[cfg(unix)]
pub fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(open), Ok(named)) if id(&open) == id(&named))
}

/// True if a file exists at a path: this system does not identify open files.
#[cfg(not(unix))]
pub fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_file_is_created_again_with_its_head() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run/log.txt");
        fs::create_dir(folder.path().join("run")).expect("creates");
        let mut file = AppendedFile::open(path.clone(), b"head\n".to_vec()).expect("creates");
        file.append(b"one\n").expect("writes");
        assert_eq!(fs::read_to_string(&path).expect("reads"), "head\none\n");
        fs::remove_dir_all(folder.path().join("run")).expect("removes");
        file.append(b"two\n").expect_err("its folder does not exist");
        file.append(b"three\n").expect_err("its folder does not exist");
        fs::create_dir(folder.path().join("run")).expect("creates");
        file.append(b"four\n").expect("writes");
        assert_eq!(fs::read_to_string(&path).expect("reads"), "head\ntwo\nthree\nfour\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn rejected_bytes_are_kept_in_order() {
        let file = fs::OpenOptions::new().write(true).open("/dev/full").expect("opens");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        let mut appended = AppendedFile { path: "/dev/full".into(), head: vec![], file, pending: vec![] };
        appended.append(b"one ").expect_err("full");
        appended.append(b"two ").expect_err("full");
        (appended.file, appended.path) = (regular::append(&path).expect("creates"), path.clone());
        appended.append(b"three").expect("writes");
        assert_eq!(fs::read_to_string(&path).expect("reads"), "one two three");
    }
}
