//! Search for NVIDIA's libraries: the loaded emulated device, the dynamic loader, CUDA_HOME, then the wheels of a Python environment.
use libloading::Library;
use std::error::Error;
use std::path::{Path, PathBuf};

/// Opens the first of a library's [`candidate_paths`] that loads. `names` are its file names, the newest first.
///
/// The error is the loader's message about the first name: the file that failed and why.
pub fn open(names: &[&str]) -> Result<(Library, PathBuf), String> {
    let mut why = String::new();
    for path in candidate_paths(names) {
        // SAFETY: the initialisers of NVIDIA's libraries have no preconditions.
        match unsafe { open_global(&path) } {
            Ok(library) => return Ok((library, path)),
            Err(error) if why.is_empty() => {
                why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            }
            Err(_) => {}
        }
    }
    Err(why)
}

/// Candidate paths of a library in search order: the emulated library if the emulated device is loaded, bare names for the dynamic
/// loader (loaded libraries, LD_LIBRARY_PATH, system folders), then existing files.
pub fn candidate_paths(names: &[&str]) -> Vec<PathBuf> {
    let emulated = names.iter().find_map(|name| emulated_file(name));
    let bare = names.iter().map(PathBuf::from);
    let folders = search_folders();
    let files = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
    emulated.into_iter().chain(bare).chain(files.filter(|path| path.is_file())).collect()
}

#[cfg(unix)]
fn emulated_file(name: &str) -> Option<PathBuf> {
    crate::emulator::library_file(name)
}

#[cfg(not(unix))]
fn emulated_file(_: &str) -> Option<PathBuf> {
    None
}

/// Opens a library with RTLD_GLOBAL, so that libraries that are opened later by name find it.
#[cfg(unix)]
unsafe fn open_global(path: &Path) -> Result<Library, libloading::Error> {
    use libloading::os::unix;
    // SAFETY: the caller vouches for the library's initialisers.
    unsafe { unix::Library::open(Some(path), unix::RTLD_NOW | unix::RTLD_GLOBAL) }.map(Library::from)
}

#[cfg(not(unix))]
unsafe fn open_global(path: &Path) -> Result<Library, libloading::Error> {
    // SAFETY: the caller vouches for the library's initialisers.
    unsafe { Library::new(path) }
}

/// Library folders that the dynamic loader does not search by default.
fn search_folders() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(set);
    let toolkits = toolkits.chain([PathBuf::from("/usr/local/cuda")]);
    let mut folders: Vec<PathBuf> =
        toolkits.flat_map(|home| [home.join("lib64"), home.join("lib")]).collect();
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(set);
    let homes = set("HOME").map(|home| home.join(".local")).into_iter();
    for environment in environments.chain(homes).chain([PathBuf::from("/usr/local"), PathBuf::from("/usr")]) {
        for packages in python_packages(&environment) {
            // Each wheel has a folder, `nvidia/<library>/lib`; since CUDA 13 most share `nvidia/cu13/lib`.
            folders.extend(entries(&packages.join("nvidia")).into_iter().map(|wheel| wheel.join("lib")));
        }
    }
    folders
}

/// `lib/python3.x/site-packages` and Debian's `dist-packages` of an environment.
fn python_packages(environment: &Path) -> Vec<PathBuf> {
    let is_python = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("python3"))
    };
    let pythons = entries(&environment.join("lib")).into_iter().filter(is_python);
    pythons.flat_map(|python| [python.join("site-packages"), python.join("dist-packages")]).collect()
}

/// Entries of a folder, sorted by name; none if it cannot be read.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn dynamic_loader_is_searched_first() {
        let (_, path) = open(&["libfornax-nothing.so", "libc.so.6"]).expect("a C library");
        assert_eq!(path, Path::new("libc.so.6"));
    }

    #[test]
    fn error_names_the_missing_library() {
        let why = open(&["libfornax-nothing.so.2", "libfornax-nothing.so"]).expect_err("there is none");
        assert!(why.contains("libfornax-nothing.so.2"), "{why}");
    }

    #[test]
    fn wheels_of_every_python_are_searched() {
        let environment = tempfile::tempdir().expect("a folder");
        let wheel = environment.path().join("lib/python3.11/site-packages/nvidia/cu13/lib");
        std::fs::create_dir_all(&wheel).expect("a folder");
        let packages = python_packages(environment.path());
        assert!(packages.contains(&environment.path().join("lib/python3.11/site-packages")), "{packages:?}");
        assert_eq!(entries(&packages[0].join("nvidia")).len(), 1);
    }
}
