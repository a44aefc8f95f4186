//! Record of the compiled sources: with `FORNAX_KERNEL_SOURCES`, a folder, every process stores each source there that it compiles or
//! loads, also on the emulated device. `fornax kernels build --sources` compiles them for other devices.
use crate::KernelSource;
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::Path;

/// Stores a source, if the record is enabled.
pub(crate) fn record(source: KernelSource) {
    if let Some(folder) = std::env::var_os("FORNAX_KERNEL_SOURCES") {
        // A failure only costs a compilation on the other device.
        let _ = store(Path::new(&folder), source);
    }
}

/// Names and texts of the sources in a folder.
pub fn recorded_sources(folder: &Path) -> io::Result<Vec<(String, String)>> {
    let mut found = vec![];
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if let (Some("cu"), Some((name, _))) =
            (path.extension().and_then(|e| e.to_str()), stem.rsplit_once('-'))
        {
            found.push((name.to_string(), fs::read_to_string(&path)?));
        }
    }
    found.sort();
    Ok(found)
}

fn store(folder: &Path, source: KernelSource) -> io::Result<()> {
    let hash: String = Sha256::digest(source.text).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let path = folder.join(format!("{}-{hash}.cu", source.name));
    if path.exists() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    // Renamed, so that other processes see the whole file or none.
    let temporary = folder.join(format!(".{}-{hash}", std::process::id()));
    fs::write(&temporary, source.text)?;
    fs::rename(&temporary, &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_sources_are_read_with_their_names() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in [("update_sgd-1", "b"), ("fuse", "a"), ("fuse", "a"), ("fuse", "c")] {
            store(folder.path(), KernelSource { name, text }).expect("it can be written");
        }
        let expected = [("fuse", "a"), ("fuse", "c"), ("update_sgd-1", "b")];
        let found = recorded_sources(folder.path()).expect("a folder");
        assert!(found.iter().map(|(name, text)| (name.as_str(), text.as_str())).eq(expected));
    }
}
