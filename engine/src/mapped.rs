//! Files mapped into memory, so that what is not looked at is not read.
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// A file's bytes, as they were when it was opened. Whoever shortens the file in place meanwhile ends the process with a bus error, as with
/// every program that maps files; replacing it by another one, as Fornax itself does, is harmless.
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps a file, to be read.
    pub fn open(path: &Path) -> io::Result<MappedFile> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
        }
        // SAFETY: the map is private and read-only, and `Mmap` keeps it for as long as the bytes are borrowed. That nobody changes the
        // file under it cannot be guaranteed, only asked for, which the documentation above does; the bytes are plain numbers that
        // are checked as they are read, so a change gives other numbers or an error.
        let map = unsafe { memmap2::MmapOptions::new().map_copy_read_only(&file)? };
        Ok(MappedFile(map))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_mapped_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        for content in [&b""[..], b"abc", &[7; 10_000]] {
            std::fs::write(&path, content).expect("writes");
            assert_eq!(&*MappedFile::open(&path).expect("maps"), content);
        }
        assert!(MappedFile::open(folder.path()).is_err());
        assert!(MappedFile::open(&folder.path().join("none")).is_err());
    }
}
