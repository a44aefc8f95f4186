//! Embeds the sources in `cu/`, one folder per group of operations with headers next to the folders, and the header of `src/arguments.rs`.
//! If nvcc is found, compiles them ahead of time for common architectures. Without nvcc, or when it fails, kernels are compiled at run
//! time; this script never fails a build.
#[path = "build/arguments_header.rs"]
mod arguments_header;

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Architectures with machine code of their own; newer devices use the PTX for compute_80.
const ARCHITECTURES: [&str; 4] = [
    "arch=compute_80,code=[sm_80,compute_80]",
    "arch=compute_90,code=sm_90",
    "arch=compute_100,code=sm_100",
    "arch=compute_120,code=sm_120",
];

fn main() {
    for path in ["build", "build.rs", "cu", "src/arguments.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let sources = Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("set by Cargo")).join("cu");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by Cargo"));
    let mut modules: Vec<PathBuf> =
        folders_in(&sources).iter().flat_map(|group| files_in(group, "cu")).collect();
    modules.sort_by_key(|path| path.file_stem().map(ToOwned::to_owned));
    let arguments = out.join("arguments.cuh");
    fs::write(&arguments, arguments_header::text()).expect("the build's folder can be written");
    let fatbins = compile_all(&modules, &[&sources, &out], &out);

    let mut text = String::from("static KERNEL_MODULES: &[KernelModule] = &[\n");
    for (path, fatbin) in modules.iter().zip(fatbins) {
        let name = path.file_stem().expect("it has a name");
        let fatbin = fatbin.map_or("None".to_string(), |path| format!("Some(include_bytes!({path:?}))"));
        let group = path.parent().and_then(Path::file_name).expect("it is in a folder");
        writeln!(
            text,
            "    KernelModule {{ name: {name:?}, group: {group:?}, source: include_str!({path:?}), fatbin: {fatbin} }},"
        )
        .unwrap();
    }
    text.push_str("];\nstatic HEADERS: &[(&str, &str)] = &[\n");
    for path in files_in(&sources, "cuh").into_iter().chain([arguments]) {
        let name = path.file_name().expect("it has a name");
        writeln!(text, "    ({name:?}, include_str!({path:?})),").unwrap();
    }
    text.push_str("];\n");
    fs::write(out.join("kernel_modules.rs"), text).expect("the build's folder can be written");
}

/// Paths of the files in a folder with an extension, sorted.
fn files_in(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = entries(folder);
    files.retain(|path| path.extension().is_some_and(|e| e == extension));
    files
}

/// Paths of the folders in a folder, sorted.
fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let mut folders = entries(folder);
    folders.retain(|path| path.is_dir());
    folders
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(folder).expect("the folder of sources exists");
    let mut paths: Vec<PathBuf> = read.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths
}

/// Compiles each source to a fatbin; `None` for each without nvcc.
fn compile_all(modules: &[PathBuf], headers: &[&Path], out: &Path) -> Vec<Option<PathBuf>> {
    let Some((nvcc, architectures)) = find_nvcc() else { return vec![None; modules.len()] };
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let work = || {
        let mut done = vec![];
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(source) = modules.get(i) else { return done };
            done.push((i, compile(&nvcc, &architectures, source, headers, out)));
        }
    };
    let mut fatbins = vec![None; modules.len()];
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for (i, fatbin) in workers.into_iter().flat_map(|worker| worker.join().expect("no panic")) {
            fatbins[i] = fatbin;
        }
    });
    fatbins
}

fn compile(
    nvcc: &Path,
    architectures: &[&str],
    source: &Path,
    headers: &[&Path],
    out: &Path,
) -> Option<PathBuf> {
    let fatbin = out.join(source.file_name()?).with_extension("fatbin");
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "-std=c++17", "--fmad=true", "-DNDEBUG", "-Xfatbin", "-compress-all"]);
    for architecture in architectures {
        command.args(["-gencode", architecture]);
    }
    for folder in headers {
        command.arg("-I").arg(folder);
    }
    let output = command.arg("-o").arg(&fatbin).arg(source).output();
    match output {
        Ok(output) if output.status.success() => Some(fatbin),
        Ok(output) => {
            let log = String::from_utf8_lossy(&output.stderr).lines().take(5).collect::<Vec<_>>().join(" | ");
            println!(
                "cargo::warning=nvcc failed on {}, which will be compiled at run time: {log}",
                source.display()
            );
            None
        }
        Err(_) => None,
    }
}

/// Finds nvcc by NVCC, CUDA_HOME, CUDA_PATH or PATH, and the architectures that it supports.
fn find_nvcc() -> Option<(PathBuf, Vec<&'static str>)> {
    let named = env::var_os("NVCC").filter(|path| !path.is_empty()).map(PathBuf::from);
    let homes = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os)
        .map(|home| Path::new(&home).join("bin/nvcc"));
    let candidates = named.into_iter().chain(homes).chain([PathBuf::from("nvcc")]);
    for nvcc in candidates {
        let Ok(output) = Command::new(&nvcc).arg("--list-gpu-code").output() else { continue };
        let known = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_supported = |architecture: &&str| {
            let code = architecture.split("sm_").nth(1).unwrap_or_default();
            let number: String = code.chars().take_while(char::is_ascii_digit).collect();
            known.lines().any(|line| line.trim() == format!("sm_{number}"))
        };
        let architectures: Vec<&str> = ARCHITECTURES.into_iter().filter(is_supported).collect();
        if output.status.success() && !architectures.is_empty() {
            return Some((nvcc, architectures));
        }
    }
    None
}
