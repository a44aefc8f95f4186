//! The emulated CUDA device: stand-ins for CUDA's libraries that run the same kernels on the processor, for machines without a
//! GPU.
//!
//! [`load`] builds them with `g++` at first use and loads them, so that cudarc finds them instead of the real ones. Each CUDA
//! thread becomes a fiber with real barriers and warp operations; what a stream is given runs only when something waits for it.
//! In checked mode each access of a kernel is watched: data races, divergent barriers, accesses out of bounds, misaligned or to
//! memory that was never written become errors that name the line of the kernel's source ([`take_error`]).

mod build;
mod sources;

use std::ffi::{CString, c_char, c_int};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};

/// How many emulated devices there are, and how they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmulatorOptions {
    /// The number of devices.
    pub devices: usize,
    /// The order in which threads, blocks and streams run: 0 ascending and as late as possible, 1 descending and as early as
    /// possible, otherwise drawn with this seed. Correct programs give the same results in every order.
    pub order: u64,
    /// Whether accesses of kernels are checked, which makes them several times slower.
    pub checked: bool,
}

impl Default for EmulatorOptions {
    fn default() -> Self {
        EmulatorOptions { devices: 1, order: 0, checked: false }
    }
}

/// Bytes that a kernel has moved between the multiprocessors and device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes read.
    pub loads: u64,
    /// Bytes written.
    pub stores: u64,
}

/// Why the emulated device cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmulatorError {
    /// There is no C++ compiler.
    #[error(
        "the emulated device needs g++ to compile kernels, and it is not on the PATH: install GCC (Debian and Ubuntu: \
         `apt install g++`, Fedora: `dnf install gcc-c++`)"
    )]
    NoCompiler,
    /// The compiler refused the emulator's own sources.
    #[error("g++ could not build {library} of the emulated device:\n{log}")]
    Build {
        /// The library that was being built.
        library: String,
        /// What the compiler printed.
        log: String,
    },
    /// The cache folder could not be written.
    #[error("the emulated device cannot be built in {}: {source}", folder.display())]
    Folder {
        /// Where it was to be built.
        folder: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A library that was built could not be loaded.
    #[error("the emulated device's {} could not be loaded: {source}", library.display())]
    Load {
        /// The library's file.
        library: PathBuf,
        /// What the dynamic loader said.
        source: libloading::Error,
    },
    /// The emulated device was loaded before, with another number of devices.
    #[error("the emulated device is loaded with {loaded} devices, and their number cannot change to {asked}")]
    DeviceCount {
        /// The number it was loaded with.
        loaded: usize,
        /// The number asked for now.
        asked: usize,
    },
    /// A number of devices that cannot be emulated.
    #[error("{0} emulated devices: there can be 1 to 64")]
    BadDeviceCount(usize),
    /// Nothing was loaded yet.
    #[error("the emulated device is not loaded")]
    NotLoaded,
}

/// Loads the emulated device. To be called before anything of cudarc, which otherwise finds the real driver, or none, and
/// remembers that. A second call changes order and mode; the number of devices stays.
pub fn load(options: &EmulatorOptions) -> Result<(), EmulatorError> {
    if !(1..=64).contains(&options.devices) {
        return Err(EmulatorError::BadDeviceCount(options.devices));
    }
    let mut loading = lock_loading();
    match RUNTIME.get() {
        Some(_) if *loading != options.devices => {
            return Err(EmulatorError::DeviceCount { loaded: *loading, asked: options.devices });
        }
        Some(_) => {}
        None => {
            let runtime = Runtime::load(options.devices)?;
            *loading = options.devices;
            RUNTIME.get_or_init(|| runtime);
        }
    }
    set_order(options.order)?;
    set_checked(options.checked)
}

/// Whether [`load`] has loaded the emulated device.
pub fn is_loaded() -> bool {
    RUNTIME.get().is_some()
}

/// Changes the order in which threads, blocks and streams run from now on: see [`Options::order`].
pub fn set_order(order: u64) -> Result<(), EmulatorError> {
    let runtime = RUNTIME.get().ok_or(EmulatorError::NotLoaded)?;
    // SAFETY: the signature is that of the function in `emulator/runtime/settings.cpp`.
    unsafe { (runtime.set_order)(order) };
    Ok(())
}

/// Switches checked mode on or off for modules that are loaded, and buffers that are allocated, from now on.
pub fn set_checked(checked: bool) -> Result<(), EmulatorError> {
    let runtime = RUNTIME.get().ok_or(EmulatorError::NotLoaded)?;
    // SAFETY: the signature is that of the function in `emulator/runtime/settings.cpp`.
    unsafe { (runtime.set_checked)(c_int::from(checked)) };
    Ok(())
}

/// The last error in words, with kernel, line, block and thread where there are such; none when nothing went wrong. Taking it also
/// brings devices that were in the state of an error back to work, which no real device does.
pub fn take_error() -> Option<String> {
    let runtime = RUNTIME.get()?;
    let message = read_text(&runtime.last_error);
    // SAFETY: the signature is that of the function in `emulator/runtime/errors.cpp`.
    unsafe { (runtime.clear_error)() };
    message
}

/// The bytes allocated on all devices, after what is queued has run.
pub fn live_bytes() -> usize {
    // SAFETY: the signature is that of the function in `emulator/runtime/settings.cpp`.
    RUNTIME.get().map_or(0, |runtime| unsafe { (runtime.live_bytes)() })
}

/// Describes the device buffers that are allocated now, if any: their number, sizes, and which allocations they were.
pub fn leaks() -> Option<String> {
    read_text(&RUNTIME.get()?.leaks)
}

/// The bytes that all launches of a kernel in checked mode have read from and written to device memory so far; none when it never
/// ran in checked mode.
pub fn traffic(kernel: &str) -> Option<Traffic> {
    let runtime = RUNTIME.get()?;
    let name = CString::new(kernel).ok()?;
    let (mut loads, mut stores) = (0, 0);
    // SAFETY: the signature is that of the function in `emulator/runtime/settings.cpp`; the name ends with a zero.
    let ran = unsafe { (runtime.bytes)(name.as_ptr(), &mut loads, &mut stores) };
    (ran != 0).then_some(Traffic { loads, stores })
}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// Held while loading; the number of devices that were loaded.
fn lock_loading() -> MutexGuard<'static, usize> {
    static LOADING: Mutex<usize> = Mutex::new(0);
    LOADING.lock().unwrap_or_else(PoisonError::into_inner)
}

type ReadText = unsafe extern "C" fn(*mut c_char, usize) -> usize;

/// The functions that the emulator's runtime has for us. Its libraries are never unloaded.
struct Runtime {
    set_order: Symbol<unsafe extern "C" fn(u64)>,
    set_checked: Symbol<unsafe extern "C" fn(c_int)>,
    last_error: Symbol<ReadText>,
    clear_error: Symbol<unsafe extern "C" fn()>,
    live_bytes: Symbol<unsafe extern "C" fn() -> usize>,
    leaks: Symbol<ReadText>,
    bytes: Symbol<unsafe extern "C" fn(*const c_char, *mut u64, *mut u64) -> c_int>,
}

type Configure = unsafe extern "C" fn(c_int, *const c_char, *const c_char, *const c_char);

impl Runtime {
    fn load(devices: usize) -> Result<Runtime, EmulatorError> {
        let built = build::build()?;
        let mut libraries = Vec::new();
        for path in &built.libraries {
            // Global, so that kernels find the runtime; by its full path, after which a look-up by its name finds it.
            // SAFETY: the libraries are ours; their initialisers only set up C++ statics.
            let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }
                .map_err(|source| EmulatorError::Load { library: path.clone(), source })?;
            libraries.push(library);
        }
        let load = |source| EmulatorError::Load { library: built.libraries[0].clone(), source };
        let text = |path: &std::path::Path| {
            CString::new(path.to_string_lossy().as_bytes()).expect("a path has no zero")
        };
        // SAFETY: each type is that of the function in `emulator/runtime/`; strings outlive the call, which copies them.
        let runtime = unsafe {
            let library = &libraries[0];
            let configure: Symbol<Configure> = library.get(b"fornax_emulator_configure").map_err(load)?;
            let (cache, include) = (text(&built.cache_folder), text(&built.include_folder));
            let compiler = text(&built.compiler);
            configure(devices as c_int, cache.as_ptr(), include.as_ptr(), compiler.as_ptr());
            Runtime {
                set_order: library.get(b"fornax_emulator_set_order").map_err(load)?,
                set_checked: library.get(b"fornax_emulator_set_checked").map_err(load)?,
                last_error: library.get(b"fornax_emulator_last_error").map_err(load)?,
                clear_error: library.get(b"fornax_emulator_clear_error").map_err(load)?,
                live_bytes: library.get(b"fornax_emulator_live_bytes").map_err(load)?,
                leaks: library.get(b"fornax_emulator_leaks").map_err(load)?,
                bytes: library.get(b"fornax_emulator_bytes").map_err(load)?,
            }
        };
        libraries.into_iter().for_each(std::mem::forget);
        Ok(runtime)
    }
}

/// Calls a function that writes a text into a buffer and returns the text's length.
fn read_text(function: &Symbol<ReadText>) -> Option<String> {
    let mut buffer = vec![0u8; 64 << 10];
    // SAFETY: the function writes at most the buffer's length, with a zero at the end.
    let length = unsafe { function(buffer.as_mut_ptr().cast(), buffer.len()) };
    buffer.truncate(length.min(buffer.len() - 1));
    (length > 0).then(|| String::from_utf8_lossy(&buffer).into_owned())
}
