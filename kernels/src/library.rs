//! Search for NVIDIA's libraries: the loaded emulated device, the dynamic loader, CUDA_HOME, then the wheels of Python environments.
use libloading::Library;
use std::error::Error;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Opens the first of a library's [`candidate_paths`] that loads. `names` are its file names, the newest first.
///
/// The error is the loader's message about the first name: the file that failed and why.
pub fn open(names: &[&str]) -> Result<(Library, PathBuf), String> {
    open_first(candidate_paths(names))
}

/// As [`open`], but looks for each of `names` everywhere before the next one: an older version in a system folder does not hide a newer one
/// in a Python environment.
pub fn open_newest(names: &[&str]) -> Result<(Library, PathBuf), String> {
    open_first(newest_first(names, &search_folders()))
}

/// Candidate paths of a library in search order: the emulated library if the emulated device is loaded, bare names for the dynamic
/// loader (loaded libraries, LD_LIBRARY_PATH, system folders), then existing files.
pub fn candidate_paths(names: &[&str]) -> Vec<PathBuf> {
    candidates_in(names, &search_folders())
}

fn candidates_in(names: &[&str], folders: &[PathBuf]) -> Vec<PathBuf> {
    let emulated = names.iter().find_map(|name| emulated_file(name));
    let bare = names.iter().map(PathBuf::from);
    let files = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
    emulated.into_iter().chain(bare).chain(files.filter(|path| path.is_file())).collect()
}

/// The candidates of the first name, then those of the next one.
fn newest_first(names: &[&str], folders: &[PathBuf]) -> Vec<PathBuf> {
    names.iter().flat_map(|name| candidates_in(&[name], folders)).collect()
}

fn open_first(paths: Vec<PathBuf>) -> Result<(Library, PathBuf), String> {
    let mut why = String::new();
    for path in paths {
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
    let on_path = set("PATH").map_or(vec![], |path| python_prefixes(path.as_os_str()));
    let homes = set("HOME").map(|home| home.join(".local")).into_iter();
    let systems = [PathBuf::from("/usr/local"), PathBuf::from("/usr")];
    for environment in environments.chain(on_path).chain(homes).chain(systems) {
        for packages in python_packages(&environment) {
            // Each wheel has a folder, `nvidia/<library>/lib`; since CUDA 13 most share `nvidia/cu13/lib`.
            folders.extend(entries(&packages.join("nvidia")).into_iter().map(|wheel| wheel.join("lib")));
        }
    }
    folders
}

/// Environments of the first `python3` and `python` in the folders of a search path: in containers, `PATH` alone often selects the Python.
/// A link is not resolved, as that of a virtual environment leads out of it.
fn python_prefixes(search_path: &OsStr) -> Vec<PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(search_path).collect();
    let first = |name: &str| folders.iter().find(|folder| folder.join(name).is_file());
    let found = ["python3", "python"].into_iter().filter_map(first);
    found.filter_map(|folder| folder.parent()).map(Path::to_path_buf).collect()
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
    fn newer_version_in_a_folder_precedes_an_older_one_of_the_loader() {
        let (newer, older) = ("libfornax-nothing.so.13", "libfornax-nothing.so.12");
        let folder = tempfile::tempdir().expect("a folder");
        let files = [newer, older].map(|name| folder.path().join(name));
        files.iter().for_each(|file| std::fs::write(file, "").expect("writes"));
        let folders = [folder.path().to_path_buf()];
        let [newer_bare, older_bare] = [newer, older].map(PathBuf::from);
        let [newer_file, older_file] = files;
        let by_place = [&newer_bare, &older_bare, &newer_file, &older_file];
        assert_eq!(candidates_in(&[newer, older], &folders).iter().collect::<Vec<_>>(), by_place);
        let by_version = [&newer_bare, &newer_file, &older_bare, &older_file];
        assert_eq!(newest_first(&[newer, older], &folders).iter().collect::<Vec<_>>(), by_version);
    }

    #[test]
    fn environment_of_the_python_on_the_path_is_searched() {
        let environment = tempfile::tempdir().expect("a folder");
        let bin = environment.path().join("bin");
        std::fs::create_dir(&bin).expect("a folder");
        let search_path = std::env::join_paths([Path::new("/nothing/bin"), &bin]).expect("a path");
        assert!(python_prefixes(&search_path).is_empty(), "there is no python3");
        std::fs::write(bin.join("python3"), "").expect("writes");
        assert_eq!(python_prefixes(&search_path), [environment.path()]);
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
