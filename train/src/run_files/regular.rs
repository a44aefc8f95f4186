//! Opening of regular files: a pipe would make the process wait, and a device has no end.
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

/// Opens a regular file to read.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().read(true), path)
}

/// Opens a regular file to append, which is created if it does not exist.
pub fn append(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().create(true).append(true), path)
}

/// Opens an existing regular file to write in place.
pub fn open_to_write(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().write(true), path)
}

/// Creates a file that does not exist. A link in its place is not followed.
pub fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// The bytes of a regular file.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of a regular file.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// The kind of a directory entry, as a noun phrase.
pub fn kind(metadata: &Metadata) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let file_type = metadata.file_type();
        if file_type.is_fifo() {
            return "a named pipe";
        }
        if file_type.is_socket() {
            return "a socket";
        }
        if file_type.is_char_device() || file_type.is_block_device() {
            return "a device";
        }
    }
    match (metadata.is_dir(), metadata.is_file()) {
        (true, _) => "a folder",
        (_, true) => "a regular file",
        _ => "a special file",
    }
}

fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // Before it is opened: opening a device may have an effect.
    if let Ok(found) = fs::metadata(path) {
        check(&found)?;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A pipe that has taken the file's place since then is opened without waiting.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    let file = options.open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

fn check(found: &Metadata) -> io::Result<()> {
    match found.is_file() {
        true => Ok(()),
        false => {
            let why = format!("it is {}, not a regular file", kind(found));
            Err(io::Error::new(io::ErrorKind::InvalidInput, why))
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    #[test]
    fn pipes_devices_and_folders_are_rejected_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("creates");
        for (path, kind) in
            [(&*pipe, "a named pipe"), (Path::new("/dev/zero"), "a device"), (folder.path(), "a folder")]
        {
            for opened in [open(path), append(path), open_to_write(path)] {
                let text = opened.expect_err("no regular file").to_string();
                assert_eq!(text, format!("it is {kind}, not a regular file"));
            }
            assert!(create_new(path).is_err());
        }
        let file = folder.path().join("file");
        create_new(&file).expect("creates");
        append(&file).expect("opens");
        assert_eq!(read(&file).expect("reads"), b"");
    }
}
