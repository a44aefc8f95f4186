//! Cache on disk, of compiled kernels and of choices made by timing. An entry that is missing, unreadable or damaged is made again; one
//! that cannot be written is made again by the next process. No function here returns an error.
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Cache folder: `$XDG_CACHE_HOME/fornax`, else `$HOME/.cache/fornax`, else `fornax` in the folder for temporary files.
pub fn folder() -> PathBuf {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("fornax")
}

/// Folder of the compiled kernels, and their number.
pub fn compiled_kernels() -> (PathBuf, usize) {
    let folder = folder().join(KERNELS);
    let count = count_entries(&folder);
    (folder, count)
}

/// Returns the text stored under a key of any characters in the subfolder `kind` of the cache folder. `None` if there is none, or if the
/// entry is damaged or of another key.
pub fn load_text(kind: &str, key: &str) -> Option<String> {
    load_text_from(&text_file(&folder(), kind, key), key)
}

/// Stores a text for [`load_text`].
pub fn store_text(kind: &str, key: &str, text: &str) {
    // A failure only costs the next process the same work.
    let _ = store_at(&text_file(&folder(), kind, key), text_entry(key, text).as_bytes());
}

/// Compiled kernel in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedKernel {
    /// Name with the dtypes for which it was compiled.
    pub name: String,
    /// Architecture, such as sm_90.
    pub target: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// Lists the compiled kernels of the cache that programs have declared ([`declared_name`](crate::declared_name)), sorted by name.
pub fn declared_kernels() -> Vec<CachedKernel> {
    declared_in(&folder())
}

fn declared_in(folder: &Path) -> Vec<CachedKernel> {
    let cached = |entry: fs::DirEntry| {
        let (file, bytes) = (entry.file_name().into_string().ok()?, entry.metadata().ok()?.len());
        let mut parts = file.strip_prefix(crate::DECLARED)?.rsplitn(3, '-');
        let (_hash, target, name) = (parts.next()?, parts.next()?.to_string(), parts.next()?.to_string());
        Some(CachedKernel { name, target, bytes: bytes.saturating_sub(CHECKSUM_BYTES as u64) })
    };
    let entries = fs::read_dir(folder.join("kernels")).into_iter().flatten().flatten();
    let mut kernels: Vec<CachedKernel> = entries.filter_map(cached).collect();
    kernels.sort_by(|a, b| (&a.name, &a.target).cmp(&(&b.name, &b.target)));
    kernels
}

/// Returns the image stored under a key.
pub(crate) fn load(key: &str) -> Option<Vec<u8>> {
    load_from(&file(&folder(), key))
}

/// Stores an image under a key.
pub(crate) fn store(key: &str, image: &[u8]) {
    // A failure only costs the next process the compilation.
    let _ = store_at(&file(&folder(), key), image);
}

/// Bytes of the SHA-256 checksum at the start of a cache file.
const CHECKSUM_BYTES: usize = 32;

/// Subfolder of the compiled kernels.
const KERNELS: &str = "kernels";

fn file(folder: &Path, key: &str) -> PathBuf {
    folder.join(KERNELS).join(key)
}

/// Number of entries in a subfolder; 0 if it cannot be read. Names of unfinished entries begin with a dot.
fn count_entries(folder: &Path) -> usize {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| !name.to_string_lossy().starts_with('.')).count()
}

/// Path of a text: its name is a hash of the key.
fn text_file(folder: &Path, kind: &str, key: &str) -> PathBuf {
    let hash = Sha256::digest(key);
    folder.join(kind).join(hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Content of a text's file: the key in the first line, then the text.
fn text_entry(key: &str, text: &str) -> String {
    format!("{}\n{text}", key.replace('\n', " "))
}

fn load_text_from(path: &Path, key: &str) -> Option<String> {
    let entry = String::from_utf8(load_from(path)?).ok()?;
    entry.strip_prefix(&text_entry(key, "")).map(str::to_string)
}

fn load_from(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(path).ok()?;
    let image = bytes.split_off(CHECKSUM_BYTES.min(bytes.len()));
    (bytes == Sha256::digest(&image).as_slice()).then_some(image)
}

fn store_at(path: &Path, image: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = path.parent().expect("a file has a parent folder");
    fs::create_dir_all(folder)?;
    // Written under a temporary name and renamed, so that other processes see the whole file or none.
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!(".{}-{number}", std::process::id()));
    let written = fs::File::create(&temporary).and_then(|mut file| {
        file.write_all(&Sha256::digest(image))?;
        file.write_all(image)
    });
    let stored = written.and_then(|()| fs::rename(&temporary, path));
    if stored.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    stored
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_image_is_loaded_and_damaged_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = file(folder.path(), "a-key");
        assert_eq!(load_from(&path), None);
        store_at(&path, b"image").expect("it can be written");
        assert_eq!(load_from(&path).as_deref(), Some(&b"image"[..]));
        assert_eq!(fs::read_dir(path.parent().expect("a folder")).expect("it is there").count(), 1);
        for damaged in [&b""[..], b"short", &fs::read(&path).expect("a file")[..CHECKSUM_BYTES + 3]] {
            fs::write(&path, damaged).expect("it can be written");
            assert_eq!(load_from(&path), None);
        }
    }

    #[test]
    fn stored_text_is_loaded_and_damaged_or_foreign_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, key) = (text_file(folder.path(), "plans", "a key: {1, 2}"), "a key: {1, 2}");
        assert_eq!(load_text_from(&path, key), None);
        store_at(&path, text_entry(key, "two\nlines").as_bytes()).expect("it can be written");
        assert_eq!(load_text_from(&path, key).as_deref(), Some("two\nlines"));
        let other = text_file(folder.path(), "plans", "another key");
        assert_ne!(path, other);
        fs::copy(&path, &other).expect("it can be copied");
        assert_eq!(load_text_from(&other, "another key"), None);
        let mut damaged = fs::read(&path).expect("a file");
        *damaged.last_mut().expect("bytes") ^= 1;
        fs::write(&path, damaged).expect("it can be written");
        assert_eq!(load_text_from(&path, key), None);
    }

    #[test]
    fn unfinished_entries_are_not_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let kernels = folder.path().join(KERNELS);
        assert_eq!(count_entries(&kernels), 0);
        for key in ["one", "two"] {
            store_at(&file(folder.path(), key), b"image").expect("it can be written");
        }
        fs::write(kernels.join(".1-0"), "part").expect("it can be written");
        assert_eq!(count_entries(&kernels), 2);
    }

    #[test]
    fn declared_kernels_are_listed_with_target_and_size() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(declared_in(folder.path()), []);
        let name = |kernel| crate::declared_name(kernel);
        for key in [
            name("swish_f16") + "-sm_90-ab12",
            name("affine_f32") + "-compute_100-cd34",
            "softmax-sm_90-ef56".into(),
        ] {
            store_at(&file(folder.path(), &key), b"image").expect("it can be written");
        }
        let of =
            |name: &str, target: &str| CachedKernel { name: name.into(), target: target.into(), bytes: 5 };
        assert_eq!(declared_in(folder.path()), [of("affine_f32", "compute_100"), of("swish_f16", "sm_90")]);
    }

    #[test]
    fn empty_image_is_loaded() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = file(folder.path(), "empty");
        store_at(&path, b"").expect("it can be written");
        assert_eq!(load_from(&path), Some(vec![]));
    }
}
