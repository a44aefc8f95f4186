//! Compiles families of kernels with NVRTC, as devices would have them: `compile LIBNVRTC CAPABILITIES [FAMILY…]`, such as `compile
//! libnvrtc.so.13 8.0,9.0`; without a family's name, all. Ends with 1 when a source is refused, or when an image lacks a kernel.
use fornax_kernels::{Family, Nvrtc, kernel_modules};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, capabilities, chosen @ ..] = &arguments[..] else {
        eprintln!("usage: compile LIBNVRTC CAPABILITIES [FAMILY…]");
        return ExitCode::from(2);
    };
    let is_chosen = |family: &&Family| chosen.is_empty() || chosen.iter().any(|name| name == family.name);
    let families: Vec<&Family> = kernel_modules().iter().filter(is_chosen).collect();
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
        while let Some(family) = families.get(next.fetch_add(1, Ordering::Relaxed)) {
            for capability in capabilities.split(',') {
                if let Err(error) = check(&nvrtc, family, capability) {
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
    let kernels: usize = families.iter().map(|family| family.kernels().len()).sum();
    let (major, minor) = nvrtc.version();
    println!("NVRTC {major}.{minor}: {} families, {kernels} kernels, for {capabilities}", families.len());
    if failed.into_inner() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check(nvrtc: &Nvrtc, family: &Family, capability: &str) -> Result<(), String> {
    let numbers = capability.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let capability =
        numbers.ok_or_else(|| format!("{capability:?} is not a compute capability such as 9.0"))?;
    let image = nvrtc.compile(family, nvrtc.target(capability)).map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&image);
    match family.kernels().iter().find(|kernel| !text.contains(&format!(".text.{kernel}\0"))) {
        Some(kernel) => Err(format!("kernel {kernel} is not in the image of {}", family.name)),
        None => Ok(()),
    }
}
