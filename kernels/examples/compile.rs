//! Compiles kernel modules with NVRTC for given compute capabilities: `compile LIBNVRTC CAPABILITIES [MODULE…]`, such as
//! `compile libnvrtc.so.13 8.0,9.0`; all modules by default. Exits with 1 when a source does not compile, or an image lacks a kernel.
use fornax_kernels::{KernelModule, Nvrtc, kernel_modules};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, capabilities, chosen @ ..] = &arguments[..] else {
        eprintln!("usage: compile LIBNVRTC CAPABILITIES [MODULE…]");
        return ExitCode::from(2);
    };
    let is_chosen =
        |module: &&KernelModule| chosen.is_empty() || chosen.iter().any(|name| name == module.name);
    let modules: Vec<&KernelModule> = kernel_modules().iter().filter(is_chosen).collect();
    let nvrtc = match Nvrtc::open(Path::new(library)) {
        Ok(nvrtc) => nvrtc,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let next = AtomicUsize::new(0);
    let failed = AtomicUsize::new(0);
    let work = || {
        while let Some(module) = modules.get(next.fetch_add(1, Ordering::Relaxed)) {
            for capability in capabilities.split(',') {
                if let Err(error) = check(&nvrtc, module, capability) {
                    eprintln!("{error}");
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(work);
        }
    });
    let kernels: usize = modules.iter().map(|module| module.kernels().len()).sum();
    let (major, minor) = nvrtc.version();
    println!("NVRTC {major}.{minor}: {} modules, {kernels} kernels, for {capabilities}", modules.len());
    if failed.into_inner() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check(nvrtc: &Nvrtc, module: &KernelModule, capability: &str) -> Result<(), String> {
    let numbers = capability.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let capability =
        numbers.ok_or_else(|| format!("{capability:?} is not a compute capability such as 9.0"))?;
    let image = nvrtc.compile(module, nvrtc.target(capability)).map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&image);
    match module.kernels().iter().find(|kernel| !text.contains(&format!(".text.{kernel}\0"))) {
        Some(kernel) => Err(format!("kernel {kernel} is not in the image of {}", module.name)),
        None => Ok(()),
    }
}
