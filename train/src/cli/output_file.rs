//! Files that the user names: atomic replacement of regular files, plain writes to devices and pipes.
use crate::checkpoint::durable;
use crate::{Error, Result};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

/// Writes a file at a path that the user chose. A regular file is replaced atomically and durably. A symbolic link is followed and stays;
/// devices and pipes are written to and stay.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let cannot_write = |e: std::io::Error| {
        Error::disk("the file cannot be written")
            .at_path(path)
            .because(e)
            .remedy("free some space, or choose another file")
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.exists()) {
        return Err(Error::disk("the file cannot be written")
            .at_path(path)
            .because(format!("the folder {} does not exist", folder.display()))
            .remedy("create the folder, or choose another file"));
    }
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            Err(Error::usage("the output file is a folder").at_path(path).remedy("pass the name of a file"))
        }
        Ok(found) if !found.is_file() => {
            let mut device = OpenOptions::new().write(true).open(path).map_err(cannot_write)?;
            device.write_all(bytes).and_then(|()| device.flush()).map_err(cannot_write)
        }
        Ok(_) => durable::write(&fs::canonicalize(path).map_err(cannot_write)?, bytes),
        // A dangling link: its target is created.
        Err(_) if path.is_symlink() => fs::write(path, bytes).map_err(cannot_write),
        Err(_) => durable::write(path, bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn regular_file_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        write(&path, b"one").expect("writes");
        write(&path, b"two").expect("writes");
        assert_eq!(fs::read(&path).expect("reads"), b"two");
        assert_eq!(write(folder.path(), b"x").expect_err("a folder").kind(), ErrorKind::Usage);
    }

    #[test]
    fn missing_folder_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = write(&folder.path().join("none/a"), b"x").expect_err("no folder");
        assert_eq!(error.kind(), ErrorKind::Disk);
        let text = error.to_string();
        assert!(text.contains("/none does not exist") && text.contains("create the folder"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn links_and_devices_stay() {
        use std::os::unix::fs::{FileTypeExt, symlink};
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        symlink("target", path("link")).expect("links");
        for content in ["one", "two"] {
            write(&path("link"), content.as_bytes()).expect("writes");
            assert!(path("link").is_symlink());
            assert_eq!(fs::read_to_string(path("target")).expect("reads"), content);
        }
        write(Path::new("/dev/null"), b"x").expect("writes");
        assert!(fs::metadata("/dev/null").expect("exists").file_type().is_char_device());
        #[cfg(target_os = "linux")]
        {
            let error = write(Path::new("/dev/full"), b"x").expect_err("full");
            assert_eq!(error.kind(), ErrorKind::Disk);
            assert!(error.to_string().contains("/dev/full"), "{error}");
            assert!(fs::metadata("/dev/full").expect("exists").file_type().is_char_device());
        }
    }
}
