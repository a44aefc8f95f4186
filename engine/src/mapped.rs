//! Memory-mapped files: only the pages that are accessed are read.
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// The bytes of a memory-mapped file. Truncating the file in place while it is mapped ends the process with a bus error, as for every
/// program that maps files; replacing it by rename, as Fornax itself does, is harmless.
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps a file for reading.
    pub fn open(path: &Path) -> io::Result<MappedFile> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        // SAFETY: the map is private and read-only, and `Mmap` keeps it for as long as the bytes are borrowed. Another process may still
        // change the file, which the documentation above asks it not to; the bytes are plain numbers that are checked as they are
        // read, so a change gives other numbers or an error.
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
    fn open_maps_the_whole_file_and_rejects_folders() {
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
