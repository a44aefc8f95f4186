//! Build of the emulated device's libraries, once per version of their sources and of the compiler.

use std::env::consts::DLL_SUFFIX;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use sha2::{Digest, Sha256};

use super::EmulatorError;
use super::sources::{EmulatorLibrary, HEADERS, LIBRARIES};

#[cfg(not(target_os = "macos"))]
pub(crate) const COMPILER: &str = "g++";
#[cfg(target_os = "macos")]
pub(crate) const COMPILER: &str = "c++";

const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O3",
    "-g1",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fsigned-char",
    "-fvisibility=hidden",
    "-ffp-contract=off",
];

/// Kernels access the runtime's thread-local registers by a fixed offset, so these must be in the static TLS block.
#[cfg(not(target_os = "macos"))]
const PLATFORM_FLAGS: &[&str] = &["-ftls-model=initial-exec"];
/// Functions of the runtime are found when a library is loaded, as on Linux.
#[cfg(target_os = "macos")]
const PLATFORM_FLAGS: &[&str] = &["-undefined", "dynamic_lookup"];

pub(super) struct BuiltLibraries {
    pub cache_folder: PathBuf,
    /// Folder of the libraries.
    pub folder: PathBuf,
    pub include_folder: PathBuf,
    /// Paths in load order.
    pub libraries: Vec<PathBuf>,
}

/// Finds the libraries in the cache folder, or builds them there. Other processes wait for a build in progress.
pub(super) fn build() -> Result<BuiltLibraries, EmulatorError> {
    let cache_folder = crate::cache::folder();
    let flags = [FLAGS, PLATFORM_FLAGS, machine_flags()].concat();
    let folder = cache_folder.join("emulator").join(key(&flags)?);
    let failed = |source| EmulatorError::Folder { folder: folder.clone(), source };
    if !folder.exists() {
        fs::create_dir_all(cache_folder.join("emulator")).map_err(failed)?;
        let lock = File::create(folder.with_extension("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        if !folder.exists() {
            let unfinished = folder.with_extension("unfinished");
            EmulatorBuild { flags: &flags, folder: &unfinished, installed: &folder }.run()?;
            fs::rename(&unfinished, &folder).map_err(failed)?;
        }
    }
    let opened = LIBRARIES.iter().filter(|library| library.is_opened);
    let libraries = opened.flat_map(file_names).map(|name| folder.join(name)).collect();
    Ok(BuiltLibraries { cache_folder, include_folder: folder.join("include"), folder, libraries })
}

/// File names of a library. The first is the library; a second one is an empty library that depends on it.
fn file_names(library: &EmulatorLibrary) -> Vec<String> {
    let name = format!("lib{}{DLL_SUFFIX}", library.name);
    let versioned = library.version.filter(|_| !cfg!(target_os = "macos"));
    let alias = versioned.map(|version| format!("{name}.{version}"));
    [name].into_iter().chain(alias).collect()
}

/// Cache key: a hash of everything that the libraries depend on: sources, flags, and the compiler's version.
fn key(flags: &[&str]) -> Result<String, EmulatorError> {
    let version = Command::new(COMPILER).arg("-v").output().ok().filter(|output| output.status.success());
    let version = version.ok_or(EmulatorError::NoCompiler)?;
    let mut hash = Sha256::new();
    hash.update(&version.stderr);
    for flag in flags {
        hash.update(flag);
    }
    for (path, text) in HEADERS.iter().chain(LIBRARIES.iter().flat_map(|library| library.sources)) {
        hash.update(path);
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    Ok(hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect())
}

/// Instruction sets that speed up the emulated cuBLASLt and cuDNN.
fn machine_flags() -> &'static [&'static str] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
    {
        return &["-mavx2", "-mfma", "-mf16c"];
    }
    &[]
}

/// Build of all libraries in a folder that is then renamed.
struct EmulatorBuild<'a> {
    flags: &'a [&'a str],
    folder: &'a Path,
    /// Final name of the folder.
    installed: &'a Path,
}

impl EmulatorBuild<'_> {
    fn run(&self) -> Result<(), EmulatorError> {
        let failed = |source| EmulatorError::Folder { folder: self.folder.to_path_buf(), source };
        write_sources(self.folder).map_err(failed)?;
        let results: Vec<_> = thread::scope(|scope| {
            let builds: Vec<_> =
                LIBRARIES.iter().map(|library| scope.spawn(|| self.build_library(library))).collect();
            builds.into_iter().map(|build| build.join().expect("a build does not panic")).collect()
        });
        results.into_iter().collect()
    }

    fn build_library(&self, library: &EmulatorLibrary) -> Result<(), EmulatorError> {
        let names = file_names(library);
        let name = &names[0];
        let libraries: &[&str] = if cfg!(target_os = "macos") { &[] } else { &["-ldl"] };
        self.link(name, &[&["-I.", "-Iinclude", &unit(library)], libraries].concat())?;
        for alias in &names[1..] {
            self.link(alias, &["-Wl,--no-as-needed", "-L.", &format!("-l:{name}")])?;
        }
        Ok(())
    }

    fn link(&self, name: &str, arguments: &[&str]) -> Result<(), EmulatorError> {
        let failed = |log| EmulatorError::Build { library: name.to_string(), log };
        let output = Command::new(COMPILER)
            .current_dir(self.folder)
            .args(self.flags)
            .args(self.name_options(name))
            .args(["-o", name])
            .args(arguments)
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// Options that set the name by which a loaded library is found.
    fn name_options(&self, name: &str) -> Vec<OsString> {
        if !cfg!(target_os = "macos") {
            return vec![format!("-Wl,-soname,{name}").into()];
        }
        // Kernels are linked to the runtime, whose name must therefore be its path; the others are loaded by their file names.
        let is_runtime = name == file_names(&LIBRARIES[0])[0];
        let name = if is_runtime { self.installed.join(name).into_os_string() } else { name.into() };
        vec!["-install_name".into(), name]
    }
}

fn write_sources(folder: &Path) -> io::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    for (path, text) in HEADERS.iter().chain(LIBRARIES.iter().flat_map(|library| library.sources)) {
        let file = folder.join(path);
        fs::create_dir_all(file.parent().expect("a source has a parent folder"))?;
        fs::write(file, text)?;
    }
    for library in LIBRARIES {
        let units = library.sources.iter().filter(|(path, _)| path.ends_with(".cpp"));
        let text: String = units.map(|(path, _)| format!("#include \"{path}\"\n")).collect();
        fs::write(folder.join(unit(library)), text)?;
    }
    Ok(())
}

fn unit(library: &EmulatorLibrary) -> String {
    format!("{}.cpp", library.name)
}
