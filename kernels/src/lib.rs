//! CUDA kernels of Fornax: sources, compilation and caching, and an emulated device that runs them on machines without a GPU.
//!
//! A kernel module is one source file, `cu/<group>/<module>.cu`; its kernels of one dtype are a [`KernelUnit`]. [`unit_image`] returns the
//! image that the CUDA driver loads: the fatbin that nvcc compiled when this crate was built, if nvcc was found; otherwise the image that NVRTC
//! compiles at first use for the device's architecture, which is kept in the [`cache`] folder.

#[macro_use]
mod by_value;

/// Structs that kernels take by value, with constants and enums. The build makes the header `arguments.cuh` of the same declarations, so a
/// kernel has no declaration of its own whose fields could be in another order.
pub mod arguments;
pub mod cache;
mod compile;
#[cfg(all(unix, feature = "cuda"))]
pub mod emulator;
#[cfg(all(unix, feature = "cuda"))]
pub mod host;
mod kernel_names;
pub mod library;
mod parallel;
mod recorded;
mod registry;
mod units;

pub use by_value::{Address, AddressBits, AddressMut, Any, ByValue};
pub use compile::{CompileTarget, KernelError, Nvrtc};
pub use parallel::{BackgroundCompilation, compile_all};
pub use recorded::recorded_sources;
pub use registry::{KernelModule, KernelSource, kernel_module, kernel_modules};
pub use units::{KernelUnit, kernel_unit, kernel_units};

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Numbers of images that this process has compiled, and loaded from the cache instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompileCounts {
    /// Compiled.
    pub compiled: usize,
    /// Loaded from the cache.
    pub cached: usize,
}

static COMPILED: AtomicUsize = AtomicUsize::new(0);
static CACHED: AtomicUsize = AtomicUsize::new(0);

/// Counts of this process.
pub fn compile_counts() -> CompileCounts {
    CompileCounts { compiled: COMPILED.load(Ordering::Relaxed), cached: CACHED.load(Ordering::Relaxed) }
}

/// Returns the image of a unit for a device of that compute capability (major, minor): a CUBIN, PTX or a fatbin. After
/// [`emulator::load`] it is an image for the emulated device.
pub fn unit_image(unit: &KernelUnit, capability: (u32, u32)) -> Result<Vec<u8>, KernelError> {
    match unit.module.embedded(capability).filter(|_| !is_emulated()) {
        Some(embedded) => Ok(embedded.to_vec()),
        None => compile(unit.source(), capability),
    }
}

/// Compiles a source with NVRTC for a device of that compute capability, or returns the image from the [`cache`]. Several threads may
/// compile at once; one that needs a source in progress waits for it.
pub fn compile<'a>(
    source: impl Into<KernelSource<'a>>,
    capability: (u32, u32),
) -> Result<Vec<u8>, KernelError> {
    let (source, nvrtc) = (source.into(), Nvrtc::shared()?);
    let target = nvrtc.target(capability);
    recorded::record(source);
    if is_emulated() {
        // The emulator's NVRTC has a cache of its own.
        let image = nvrtc.compile(source, target)?;
        COMPILED.fetch_add(1, Ordering::Relaxed);
        return Ok(image);
    }
    let key = nvrtc.key(source, target);
    let _in_progress = InProgress::begin(&key);
    if let Some(image) = cache::load(&key) {
        CACHED.fetch_add(1, Ordering::Relaxed);
        return Ok(image);
    }
    let image = nvrtc.compile(source, target)?;
    COMPILED.fetch_add(1, Ordering::Relaxed);
    cache::store(&key, &image);
    Ok(image)
}

/// Start of the names of declared kernels' sources, in the cache and in errors.
const DECLARED: &str = "custom_";

/// Name of the source of a kernel that a program declares.
pub fn declared_name(kernel: &str) -> String {
    format!("{DECLARED}{kernel}")
}

/// Key of an image that a thread loads or compiles, until it is dropped.
struct InProgress<'a>(&'a str);

static IN_PROGRESS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
static PROGRESS: Condvar = Condvar::new();

impl InProgress<'_> {
    /// Waits until no other thread has the key.
    fn begin(key: &str) -> InProgress<'_> {
        let mut keys = InProgress::keys();
        while !keys.insert(key.to_string()) {
            keys = PROGRESS.wait(keys).unwrap_or_else(PoisonError::into_inner);
        }
        InProgress(key)
    }

    fn keys() -> MutexGuard<'static, BTreeSet<String>> {
        IN_PROGRESS.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        InProgress::keys().remove(self.0);
        PROGRESS.notify_all();
    }
}

#[cfg(all(unix, feature = "cuda"))]
fn is_emulated() -> bool {
    emulator::is_loaded()
}

#[cfg(not(all(unix, feature = "cuda")))]
fn is_emulated() -> bool {
    false
}
