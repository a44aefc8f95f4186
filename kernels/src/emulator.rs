//! Emulated CUDA device: replacements for the CUDA libraries that run the same kernels on the CPU, for machines without a GPU.
//!
//! [`load`] builds them with `g++` (on macOS `c++`) at first use and loads them, so that cudarc finds them instead of the real ones.
//! Each CUDA thread is a fiber with real barriers and warp operations; work queued on a stream runs only when something waits for it.
//! Checked mode, on Linux, instruments every access of a kernel: data races, barrier divergence, and accesses that are out of bounds,
//! misaligned or to uninitialised memory become errors with the line of the kernel's source ([`take_error`]).

mod build;
mod sources;

pub(crate) use build::COMPILER;

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::sys::CUstream;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};

/// Number of emulated devices, and how they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmulatorOptions {
    /// Number of devices, 1 to 64.
    pub devices: usize,
    /// Order in which threads, blocks and streams run: 0 ascending and as late as possible, 1 descending and as early as
    /// possible, any other value a random order with this seed. Correct programs give the same results in every order.
    pub order: u64,
    /// Check every memory access of kernels, which makes them several times slower.
    pub checked: bool,
}

impl Default for EmulatorOptions {
    fn default() -> Self {
        EmulatorOptions { devices: 1, order: 0, checked: false }
    }
}

/// Bytes of device memory that a kernel has read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelTraffic {
    /// Bytes read.
    pub loads: u64,
    /// Bytes written.
    pub stores: u64,
}

/// Fault of an engine of the emulated cuDNN.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EngineFault {
    /// None.
    #[default]
    None,
    /// Its plans do not build.
    BuildFails,
    /// Its execution returns "not supported", without effect.
    UnsupportedAtExecution,
    /// Its execution returns an execution error, without effect.
    ExecutionFails,
    /// Its kernel accesses an illegal address, which is an error of the device from then on.
    IllegalAddress,
}

/// Counts of the driver's memory functions on all devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryCalls {
    /// Calls that allocate device memory.
    pub allocations: u64,
    /// Calls that free device memory.
    pub frees: u64,
    /// Calls that allocate pinned host memory.
    pub host_allocations: u64,
    /// Nodes of captured graphs that allocate or free memory.
    pub graph_nodes: u64,
}

/// Executions of a kernel or library call in counted mode, and the device memory that they moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkCount {
    /// Number of executions, including those by replayed CUDA graphs.
    pub executions: u64,
    /// Bytes read. A byte counts once per execution, however many threads read it.
    pub loads: u64,
    /// Bytes written, each counted once per execution.
    pub stores: u64,
}

/// Error of loading or configuring the emulated device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmulatorError {
    /// The compiler was not found.
    #[error(
        "the emulated device needs {} to compile kernels, but it is not on the PATH: install it (Debian and Ubuntu: \
         `apt install g++`, Fedora: `dnf install gcc-c++`, macOS: `xcode-select --install`)",
        build::COMPILER
    )]
    NoCompiler,
    /// The emulator's own sources do not compile.
    #[error("{} could not build {library} of the emulated device:\n{log}", build::COMPILER)]
    Build {
        /// Name of the library.
        library: String,
        /// Output of the compiler.
        log: String,
    },
    /// The cache folder could not be written.
    #[error("the emulated device cannot be built in {}: {source}", folder.display())]
    Folder {
        /// Folder for the build.
        folder: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A library could not be loaded.
    #[error("the emulated device's {} could not be loaded: {source}", library.display())]
    Load {
        /// File of the library.
        library: PathBuf,
        /// Error of the dynamic loader.
        source: libloading::Error,
    },
    /// The emulated device was already loaded with another number of devices.
    #[error("the emulated device is loaded with {loaded} devices; their number cannot change to {requested}")]
    DeviceCount {
        /// Number of loaded devices.
        loaded: usize,
        /// Requested number of devices.
        requested: usize,
    },
    /// Unsupported number of devices.
    #[error("{0} emulated devices were requested; 1 to 64 are possible")]
    BadDeviceCount(usize),
    /// Checked mode on another system than Linux.
    #[error(
        "checked mode of the emulated device needs Linux: it finds the static shared memory of a kernel through ELF's thread-local \
         storage, which {} does not have; use the emulated device without checks",
        std::env::consts::OS
    )]
    CheckedMode,
    /// [`load`] was not called yet.
    #[error("the emulated device is not loaded")]
    NotLoaded,
}

/// Loads the emulated device. Call it before any use of cudarc, which otherwise finds the real driver, or none, and caches that. A
/// second call changes order and checked mode; it must have the same number of devices.
pub fn load(options: &EmulatorOptions) -> Result<(), EmulatorError> {
    if !(1..=64).contains(&options.devices) {
        return Err(EmulatorError::BadDeviceCount(options.devices));
    }
    let mut loading = lock_loading();
    match RUNTIME.get() {
        Some(_) if *loading != options.devices => {
            return Err(EmulatorError::DeviceCount { loaded: *loading, requested: options.devices });
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

/// True after [`load`] has loaded the emulated device.
pub fn is_loaded() -> bool {
    RUNTIME.get().is_some()
}

/// Sets the order in which threads, blocks and streams run from now on; see [`EmulatorOptions::order`].
pub fn set_order(order: u64) -> Result<(), EmulatorError> {
    let runtime = RUNTIME.get().ok_or(EmulatorError::NotLoaded)?;
    // SAFETY: the type is that of the function in `emulator/runtime/settings.cpp`.
    unsafe { (runtime.set_order)(order) };
    Ok(())
}

/// Enables or disables checked mode for modules that are loaded, and buffers that are allocated, from now on.
pub fn set_checked(checked: bool) -> Result<(), EmulatorError> {
    let runtime = RUNTIME.get().ok_or(EmulatorError::NotLoaded)?;
    if checked && !cfg!(target_os = "linux") {
        return Err(EmulatorError::CheckedMode);
    }
    // SAFETY: the type is that of the function in `emulator/runtime/settings.cpp`.
    unsafe { (runtime.set_checked)(c_int::from(checked)) };
    Ok(())
}

/// Sets the emulated time per run, in milliseconds, and the fault of an engine of the emulated cuDNN, for all devices, from now on. The time
/// is measured by CUDA events; 0 is the default of 0.25 ms. Every other operation takes 10 microseconds of emulated time. The number
/// `engine + 100 knob` is one configuration of the engine, if its knob is not 0.
pub fn plant_engine(engine: i64, milliseconds: f64, fault: EngineFault) -> Result<(), EmulatorError> {
    let runtime = RUNTIME.get().ok_or(EmulatorError::NotLoaded)?;
    // SAFETY: the type is that of the function in `emulator/cudnn/planted.cpp`.
    unsafe { (runtime.plant_engine)(engine, milliseconds, fault as c_int) };
    Ok(())
}

/// Emulated seconds that plans of run-time-compiled engines of the emulated cuDNN have taken so far: 1.9 each, the mean of the real
/// library.
pub fn compile_seconds() -> f64 {
    // SAFETY: the type is that of the function in `emulator/cudnn/planted.cpp`.
    RUNTIME.get().map_or(0.0, |runtime| unsafe { (runtime.compile_seconds)() })
}

/// Makes matmuls of the emulated cuBLASLt with an epilogue, a value of `CUBLASLT_EPILOGUE_*`, return a status for the algorithm of that
/// rank in the heuristics' list, from now on. Status 0 removes it.
pub fn plant_matmul(epilogue: u32, rank: i64, status: i32) -> Result<(), EmulatorError> {
    let runtime = RUNTIME.get().ok_or(EmulatorError::NotLoaded)?;
    // SAFETY: the type is that of the function in `emulator/cublaslt/cublaslt.cpp`.
    unsafe { (runtime.plant_matmul)(epilogue, rank, status) };
    Ok(())
}

/// Sets the CUDA versions of the driver and of the libraries from now on, as 1000 major + 10 minor; 13000 at first. Functions that a driver
/// of that version lacks return an error.
pub fn set_cuda_versions(driver: i32, libraries: i32) -> Result<(), EmulatorError> {
    let runtime = RUNTIME.get().ok_or(EmulatorError::NotLoaded)?;
    // SAFETY: the type is that of the function in `emulator/runtime/settings.cpp`.
    unsafe { (runtime.set_cuda_versions)(driver, libraries) };
    Ok(())
}

/// Sets the compute capability of the devices from now on; 9.0 at first.
pub fn set_compute_capability(major: i32, minor: i32) -> Result<(), EmulatorError> {
    let runtime = RUNTIME.get().ok_or(EmulatorError::NotLoaded)?;
    // SAFETY: the type is that of the function in `emulator/runtime/settings.cpp`.
    unsafe { (runtime.set_compute_capability)(major, minor) };
    Ok(())
}

/// Enables or disables counted mode for modules that are loaded from now on: accesses of kernels are counted, not checked, for
/// [`work_counts`].
pub fn set_counted(counted: bool) -> Result<(), EmulatorError> {
    let runtime = RUNTIME.get().ok_or(EmulatorError::NotLoaded)?;
    // SAFETY: the type is that of the function in `emulator/runtime/settings.cpp`.
    unsafe { (runtime.set_counted)(c_int::from(counted)) };
    COUNTED.store(counted, Ordering::Relaxed);
    Ok(())
}

/// Makes kernels and library calls compute nothing when they run, or makes them compute again, after all work that is queued. They are still
/// checked and queued, so that a program takes the time that it needs on the host; its results are meaningless.
pub fn set_empty_kernels(empty: bool) -> Result<(), EmulatorError> {
    let runtime = RUNTIME.get().ok_or(EmulatorError::NotLoaded)?;
    // SAFETY: the type is that of the function in `emulator/runtime/settings.cpp`.
    unsafe { (runtime.set_empty_kernels)(c_int::from(empty)) };
    Ok(())
}

/// Runs all queued work and returns the bytes that all kernels, library calls, copies and memsets have read and written in counted mode so
/// far. `None` in other modes.
pub fn counted_bytes() -> Option<u64> {
    let is_counted = is_loaded() && COUNTED.load(Ordering::Relaxed);
    is_counted.then(|| work_counts().values().map(|count| count.loads + count.stores).sum())
}

/// Runs all queued work and returns what kernels, library calls, copies and memsets have done in counted mode so far, by name.
pub fn work_counts() -> BTreeMap<String, WorkCount> {
    let text = RUNTIME.get().and_then(|runtime| read_text(&runtime.counts)).unwrap_or_default();
    let count = |line: &str| {
        let mut fields = line.split('\t');
        let name = fields.next()?.to_string();
        let mut number = || fields.next()?.parse().ok();
        Some((name, WorkCount { executions: number()?, loads: number()?, stores: number()? }))
    };
    text.lines().filter_map(count).collect()
}

/// Returns and clears the last error message, with kernel, line, block and thread if known; `None` if there was no error. Unlike on a
/// real device, this also resets devices after a sticky error.
pub fn take_error() -> Option<String> {
    let runtime = RUNTIME.get()?;
    let message = read_text(&runtime.last_error);
    // SAFETY: the type is that of the function in `emulator/runtime/errors.cpp`.
    unsafe { (runtime.clear_error)() };
    message
}

/// Sets the memory of each emulated device from now on; 8 GiB at first.
pub fn set_device_memory(bytes: usize) -> Result<(), EmulatorError> {
    let runtime = RUNTIME.get().ok_or(EmulatorError::NotLoaded)?;
    // SAFETY: the type is that of the function in `emulator/runtime/settings.cpp`.
    unsafe { (runtime.set_device_memory)(bytes) };
    Ok(())
}

/// Number of calls of the driver's memory functions so far.
pub fn memory_calls() -> MemoryCalls {
    let mut calls = MemoryCalls { allocations: 0, frees: 0, host_allocations: 0, graph_nodes: 0 };
    if let Some(runtime) = RUNTIME.get() {
        let MemoryCalls { allocations, frees, host_allocations, graph_nodes } = &mut calls;
        // SAFETY: the type is that of the function in `emulator/runtime/settings.cpp`.
        unsafe { (runtime.memory_calls)(allocations, frees, host_allocations, graph_nodes) };
    }
    calls
}

/// Registers a suballocation: `bytes` of device memory at an address inside an allocation of the driver, followed by padding up to `padded`
/// bytes. For work that is queued on the stream afterwards, only suballocations of that allocation count as allocated: its memory is
/// uninitialised, accesses outside of `bytes` are errors in checked mode, and a changed byte of the padding is one when it ends. In a
/// capture, each replay begins the suballocation again, without a node of the graph.
///
/// # Errors
/// A message if the range is in no allocation, or overlaps another suballocation.
pub fn add_suballocation(address: u64, bytes: usize, padded: usize, stream: CUstream) -> Result<(), String> {
    let Some(runtime) = RUNTIME.get() else { return Err(EmulatorError::NotLoaded.to_string()) };
    // SAFETY: the type is that of the function in `emulator/runtime/memory.cpp`, which checks its arguments.
    match unsafe { (runtime.add_suballocation)(address, bytes, padded, stream) } {
        0 => Err(take_error().unwrap_or_default()),
        _ => Ok(()),
    }
}

/// Ends the suballocation at an address, after the work that is queued on the stream so far. A device that failed may have lost it.
pub fn remove_suballocation(address: u64, stream: CUstream) {
    if let Some(runtime) = RUNTIME.get() {
        // SAFETY: the type is that of the function in `emulator/runtime/memory.cpp`, which checks its arguments.
        unsafe { (runtime.remove_suballocation)(address, stream) };
    }
}

/// Runs all queued work and returns the bytes allocated on all devices: suballocations, and the driver's allocations without any.
pub fn live_bytes() -> usize {
    // SAFETY: the type is that of the function in `emulator/runtime/settings.cpp`.
    RUNTIME.get().map_or(0, |runtime| unsafe { (runtime.live_bytes)() })
}

/// Describes the device buffers that are allocated now, if any: number, sizes, and allocation indices.
pub fn leaks() -> Option<String> {
    read_text(&RUNTIME.get()?.leaks)
}

/// Bytes of device memory that all launches of a kernel in checked mode have read and written so far; `None` if it never ran in
/// checked mode.
pub fn traffic(kernel: &str) -> Option<KernelTraffic> {
    let runtime = RUNTIME.get()?;
    let name = CString::new(kernel).ok()?;
    let (mut loads, mut stores) = (0, 0);
    // SAFETY: the type is that of the function in `emulator/runtime/settings.cpp`; the name is NUL-terminated.
    let ran = unsafe { (runtime.bytes)(name.as_ptr(), &mut loads, &mut stores) };
    (ran != 0).then_some(KernelTraffic { loads, stores })
}

/// File of the emulated library with a library's file name on Linux, such as `libcudnn.so.9`. `None` before [`load`], and for libraries
/// that are not emulated.
pub(crate) fn library_file(name: &str) -> Option<PathBuf> {
    let (name, _) = name.split_once(".so")?;
    let path = RUNTIME.get()?.folder.join(format!("{name}{}", std::env::consts::DLL_SUFFIX));
    path.is_file().then_some(path)
}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();
/// Counted mode is on.
static COUNTED: AtomicBool = AtomicBool::new(false);

/// Locks the number of loaded devices; the lock is held while loading.
fn lock_loading() -> MutexGuard<'static, usize> {
    static LOADING: Mutex<usize> = Mutex::new(0);
    LOADING.lock().unwrap_or_else(PoisonError::into_inner)
}

type ReadText = unsafe extern "C" fn(*mut c_char, usize) -> usize;

/// Folder of the emulator's libraries and functions of its runtime library. The libraries are never unloaded.
struct Runtime {
    folder: PathBuf,
    set_order: Symbol<unsafe extern "C" fn(u64)>,
    set_checked: Symbol<unsafe extern "C" fn(c_int)>,
    set_counted: Symbol<unsafe extern "C" fn(c_int)>,
    set_empty_kernels: Symbol<unsafe extern "C" fn(c_int)>,
    last_error: Symbol<ReadText>,
    clear_error: Symbol<unsafe extern "C" fn()>,
    set_device_memory: Symbol<unsafe extern "C" fn(usize)>,
    memory_calls: Symbol<unsafe extern "C" fn(*mut u64, *mut u64, *mut u64, *mut u64)>,
    add_suballocation: Symbol<unsafe extern "C" fn(u64, usize, usize, CUstream) -> c_int>,
    remove_suballocation: Symbol<unsafe extern "C" fn(u64, CUstream) -> c_int>,
    live_bytes: Symbol<unsafe extern "C" fn() -> usize>,
    leaks: Symbol<ReadText>,
    counts: Symbol<ReadText>,
    bytes: Symbol<unsafe extern "C" fn(*const c_char, *mut u64, *mut u64) -> c_int>,
    plant_engine: Symbol<unsafe extern "C" fn(i64, f64, c_int)>,
    compile_seconds: Symbol<unsafe extern "C" fn() -> f64>,
    plant_matmul: Symbol<unsafe extern "C" fn(u32, i64, c_int)>,
    set_cuda_versions: Symbol<unsafe extern "C" fn(c_int, c_int)>,
    set_compute_capability: Symbol<unsafe extern "C" fn(c_int, c_int)>,
}

type Configure = unsafe extern "C" fn(c_int, *const c_char, *const c_char, *const c_char);

/// Opens a library of the emulator.
fn open(path: &Path) -> Result<Library, EmulatorError> {
    // RTLD_GLOBAL, so that kernels find the runtime. Once it is loaded by its path, dlopen by its name finds it too.
    // SAFETY: these are our own libraries; their initialisers only set up C++ statics.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }
        .map_err(|source| EmulatorError::Load { library: path.to_path_buf(), source })
}

/// Passes folders, compiler and number of devices to the runtime library.
fn configure(runtime: &Library, built: &build::BuiltLibraries, devices: usize) -> Result<(), EmulatorError> {
    let text = |path: &Path| CString::new(path.to_string_lossy().as_bytes()).expect("a path contains no NUL");
    let (cache, include) = (text(&built.cache_folder), text(&built.include_folder));
    let compiler = CString::new(build::COMPILER).expect("a name contains no NUL");
    // SAFETY: the type is that of the function in `emulator/runtime/settings.cpp`; the strings outlive the call, which copies them.
    unsafe {
        let configure: Symbol<Configure> = runtime
            .get(b"fornax_emulator_configure")
            .map_err(|source| EmulatorError::Load { library: built.libraries[0].clone(), source })?;
        configure(devices as c_int, cache.as_ptr(), include.as_ptr(), compiler.as_ptr());
    }
    Ok(())
}

/// Builds and opens the runtime library alone, which runs kernels on host memory: the stand-ins of CUDA's libraries are not loaded, so a
/// real driver stays usable.
pub(crate) fn runtime_library() -> Result<Library, EmulatorError> {
    let loaded_devices = lock_loading();
    let built = build::build()?;
    let library = open(&built.libraries[0])?;
    configure(&library, &built, (*loaded_devices).max(1))?;
    Ok(library)
}

impl Runtime {
    fn load(devices: usize) -> Result<Runtime, EmulatorError> {
        let built = build::build()?;
        let libraries: Vec<Library> =
            built.libraries.iter().map(|path| open(path)).collect::<Result<_, _>>()?;
        let load = |source| EmulatorError::Load { library: built.libraries[0].clone(), source };
        let library_of = |stem: &str| {
            let is_named = |path: &PathBuf| path.file_stem().is_some_and(|s| s == stem);
            &libraries[built.libraries.iter().position(is_named).expect("a library of the emulator")]
        };
        let (cudnn, cublaslt) = (library_of("libcudnn"), library_of("libcublasLt"));
        configure(&libraries[0], &built, devices)?;
        // SAFETY: each type is that of the function in `emulator/runtime/`.
        let runtime = unsafe {
            let library = &libraries[0];
            Runtime {
                folder: built.folder,
                set_order: library.get(b"fornax_emulator_set_order").map_err(load)?,
                set_checked: library.get(b"fornax_emulator_set_checked").map_err(load)?,
                set_counted: library.get(b"fornax_emulator_set_counted").map_err(load)?,
                set_empty_kernels: library.get(b"fornax_emulator_set_empty_kernels").map_err(load)?,
                last_error: library.get(b"fornax_emulator_last_error").map_err(load)?,
                clear_error: library.get(b"fornax_emulator_clear_error").map_err(load)?,
                set_device_memory: library.get(b"fornax_emulator_set_device_memory").map_err(load)?,
                memory_calls: library.get(b"fornax_emulator_memory_calls").map_err(load)?,
                add_suballocation: library.get(b"fornax_emulator_add_suballocation").map_err(load)?,
                remove_suballocation: library.get(b"fornax_emulator_remove_suballocation").map_err(load)?,
                live_bytes: library.get(b"fornax_emulator_live_bytes").map_err(load)?,
                counts: library.get(b"fornax_emulator_counts").map_err(load)?,
                leaks: library.get(b"fornax_emulator_leaks").map_err(load)?,
                bytes: library.get(b"fornax_emulator_bytes").map_err(load)?,
                plant_engine: cudnn.get(b"fornax_emulator_plant_engine").map_err(load)?,
                compile_seconds: cudnn.get(b"fornax_emulator_compile_seconds").map_err(load)?,
                plant_matmul: cublaslt.get(b"fornax_emulator_plant_matmul").map_err(load)?,
                set_cuda_versions: library.get(b"fornax_emulator_set_cuda_versions").map_err(load)?,
                set_compute_capability: library
                    .get(b"fornax_emulator_set_compute_capability")
                    .map_err(load)?,
            }
        };
        libraries.into_iter().for_each(std::mem::forget);
        Ok(runtime)
    }
}

/// Calls a function that writes a text into a buffer and returns its length; `None` for an empty text.
pub(crate) fn read_text(function: &Symbol<ReadText>) -> Option<String> {
    let mut buffer = vec![0u8; 64 << 10];
    // SAFETY: the function writes at most the buffer's length, including a NUL.
    let length = unsafe { function(buffer.as_mut_ptr().cast(), buffer.len()) };
    buffer.truncate(length.min(buffer.len() - 1));
    (length > 0).then(|| String::from_utf8_lossy(&buffer).into_owned())
}
