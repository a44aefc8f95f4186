//! Build of the emulated device's libraries, once per version of their sources and of the compiler.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use sha2::{Digest, Sha256};

use super::EmulatorError;
use super::sources::{EmulatorLibrary, HEADERS, LIBRARIES};

const COMPILER: &str = "g++";
// Kernels access the runtime's thread-local registers by a fixed offset, so these must be in the static TLS block.
const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O3",
    "-g1",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-ftls-model=initial-exec",
];

pub(super) struct BuiltLibraries {
    pub cache_folder: PathBuf,
    pub include_folder: PathBuf,
    pub compiler: PathBuf,
    /// Paths in load order.
    pub libraries: Vec<PathBuf>,
    /// Index of cuDNN among them.
    pub cudnn: usize,
}

/// Finds the libraries in the cache folder, or builds them there. Other processes wait for a build in progress.
pub(super) fn build() -> Result<BuiltLibraries, EmulatorError> {
    let cache_folder = crate::cache::folder();
    let mut flags: Vec<&str> = FLAGS.to_vec();
    flags.extend(machine_flags());
    let folder = cache_folder.join("emulator").join(key(&flags)?);
    let failed = |source| EmulatorError::Folder { folder: folder.clone(), source };
    if !folder.exists() {
        fs::create_dir_all(cache_folder.join("emulator")).map_err(failed)?;
        let lock = File::create(folder.with_extension("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        if !folder.exists() {
            let unfinished = folder.with_extension("unfinished");
            build_all(&unfinished, &flags)?;
            fs::rename(&unfinished, &folder).map_err(failed)?;
        }
    }
    let names = LIBRARIES.iter().flat_map(|library| library.names);
    let libraries: Vec<PathBuf> = names.map(|name| folder.join(name)).collect();
    let cudnn = libraries.iter().position(|path| path.ends_with("libcudnn.so")).expect("one is cuDNN");
    Ok(BuiltLibraries {
        cache_folder,
        include_folder: folder.join("include"),
        compiler: COMPILER.into(),
        libraries,
        cudnn,
    })
}

/// Cache key: a hash of everything that the libraries depend on: sources, flags, and the compiler's version.
fn key(flags: &[&str]) -> Result<String, EmulatorError> {
    let version = Command::new(COMPILER).arg("-v").output().map_err(|_| EmulatorError::NoCompiler)?;
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

fn build_all(folder: &Path, flags: &[&str]) -> Result<(), EmulatorError> {
    let failed = |source| EmulatorError::Folder { folder: folder.to_path_buf(), source };
    write_sources(folder).map_err(failed)?;
    let results: Vec<_> = thread::scope(|scope| {
        let builds: Vec<_> =
            LIBRARIES.iter().map(|library| scope.spawn(|| build_library(folder, flags, library))).collect();
        builds.into_iter().map(|build| build.join().expect("a build does not panic")).collect()
    });
    results.into_iter().collect()
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
    format!("{}.cpp", library.names[0])
}

fn build_library(folder: &Path, flags: &[&str], library: &EmulatorLibrary) -> Result<(), EmulatorError> {
    let name = library.names[0];
    let compile = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(COMPILER);
        command
            .current_dir(folder)
            .args(flags)
            .arg(format!("-Wl,-soname,{name}"))
            .args(["-o", name])
            .args(arguments);
        let failed = |log| EmulatorError::Build { library: name.to_string(), log };
        let output = command.output().map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    compile(name, &["-I.", "-Iinclude", &unit(library), "-ldl"])?;
    for alias in &library.names[1..] {
        compile(alias, &["-Wl,--no-as-needed", "-L.", &format!("-l:{name}")])?;
    }
    Ok(())
}
