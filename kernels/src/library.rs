//! Search for NVIDIA's libraries: the loaded emulated device, the dynamic loader, CUDA_HOME, then the wheels of Python environments.
use libloading::Library;
use std::error::Error;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Opens the first of a library's [`candidate_paths`] that loads. `names` are its file names, the newest first.
///
/// The error is the loader's message about the first name: the file that failed and why.
pub fn open(names: &[&str]) -> Result<(Library, PathBuf), String> {
    let mut why = String::new();
    for path in candidate_paths(names) {
        load_companions(&path);
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

/// CUDA version of the driver, as 1000 major + 10 minor; `None` without a driver.
pub fn driver_version() -> Option<i32> {
    let (driver, _) = open(&["libcuda.so.1", "libcuda.so"]).ok()?;
    let mut version = 0;
    // SAFETY: the type is that of cuda.h; the function may be called before cuInit, and writes one number.
    let status = unsafe {
        driver.get::<unsafe extern "C" fn(*mut i32) -> i32>(b"cuDriverGetVersion").ok()?(&mut version)
    };
    // Others use the driver, so it is kept open.
    std::mem::forget(driver);
    (status == 0).then_some(version)
}

/// Those of a CUDA library's file names, which end with CUDA's major version, that the driver supports: a library of CUDA 13 needs a driver
/// for CUDA 13. All of them if none is supported, so that an error can name the library that was found.
pub fn for_driver<'a>(names: &[&'a str]) -> Vec<&'a str> {
    supported(names, driver_version())
}

fn supported<'a>(names: &[&'a str], driver: Option<i32>) -> Vec<&'a str> {
    let newest = driver.map_or(i32::MAX, |version| version / 1000);
    let is_supported = |name: &&&str| {
        let major = name.rsplit_once(".so.").and_then(|(_, major)| major.parse::<i32>().ok());
        major.is_none_or(|major| major <= newest)
    };
    let supported: Vec<&str> = names.iter().filter(is_supported).copied().collect();
    if supported.is_empty() { names.to_vec() } else { supported }
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

/// Loads the libraries that a library opens by their names alone, from its own folder: the builtins of NVRTC. It finds them if they are
/// loaded already. For a bare name the dynamic loader finds both.
pub(crate) fn load_companions(path: &Path) {
    let is_nvrtc = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libnvrtc."));
    let Some(folder) = path.parent().filter(|folder| is_nvrtc && !folder.as_os_str().is_empty()) else {
        return;
    };
    let is_builtins = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libnvrtc-builtins."))
    };
    for path in entries(folder).into_iter().filter(is_builtins) {
        // SAFETY: a library of tables, whose initialisers have no preconditions.
        if let Ok(library) = unsafe { Library::new(path) } {
            std::mem::forget(library);
        }
    }
}

#[cfg(all(unix, feature = "cuda"))]
fn emulated_file(name: &str) -> Option<PathBuf> {
    crate::emulator::library_file(name)
}

#[cfg(not(all(unix, feature = "cuda")))]
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
fn entries(folder: &Path) -> Vec<PathBuf> {
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
    fn libraries_of_a_newer_cuda_than_the_driver_are_not_searched() {
        let names = ["libx.so.13", "libx.so.12", "libx.so"];
        assert_eq!(supported(&names, Some(13_000)), names);
        assert_eq!(supported(&names, Some(12_040)), names[1..]);
        assert_eq!(supported(&names, None), names, "kernels are also compiled without a driver");
        assert_eq!(supported(&names[..1], Some(12_040)), names[..1]);
    }

    #[test]
    fn error_names_the_missing_library() {
        let why = open(&["libfornax-nothing.so.2", "libfornax-nothing.so"]).expect_err("there is none");
        assert!(why.contains("libfornax-nothing.so.2"), "{why}");
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
