//! CUDA kernels on the CPU: g++ (on macOS clang) compiles the text of a kernel, and the emulated device's runtime runs its threads as
//! fibers on host memory. No driver is involved, so this works next to a real GPU.
use crate::KernelSource;
use crate::emulator::{EmulatorError, runtime_library};
use libloading::os::unix::{Library, Symbol};
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// Kernel that runs on the CPU. It is never unloaded.
#[derive(Debug)]
pub struct HostKernel {
    name: String,
    handle: *mut c_void,
}

// SAFETY: the handle is to constant data; the runtime runs one kernel at a time.
unsafe impl Send for HostKernel {}
// SAFETY: as above.
unsafe impl Sync for HostKernel {}

/// Error of a kernel on the CPU.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostKernelError {
    /// The runtime cannot be built or loaded.
    #[error(
        "a kernel without a CPU implementation runs on the CPU through the emulated device's runtime: {0}"
    )]
    Runtime(String),
    /// The source does not compile.
    #[error("{compiler} cannot compile {name}.cu for the CPU:\n{log}", compiler = crate::emulator::COMPILER)]
    Compile {
        /// Name of the source.
        name: String,
        /// Output of the compiler.
        log: String,
    },
    /// The kernel failed, or its arguments differ from its parameters in number or size.
    #[error("kernel {name} failed on the CPU: {why}")]
    Run {
        /// Name of the kernel.
        name: String,
        /// The cause.
        why: String,
    },
}

/// Grid, block and bytes of dynamic shared memory of a launch on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostLaunch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads per block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
}

impl HostKernel {
    /// Compiles a source and loads its kernel `name`, or loads it from the cache.
    pub fn load(source: KernelSource, name: &str) -> Result<HostKernel, HostKernelError> {
        let runtime = HostRuntime::shared()?;
        let c = |text: &str| CString::new(text).expect("a source contains no NUL");
        let headers: Vec<_> = source.headers().iter().map(|(name, text)| (c(name), c(text))).collect();
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let texts: Vec<_> = headers.iter().map(|(_, text)| text.as_ptr()).collect();
        let (file, text, kernel) = (c(&source.file()), c(source.text), c(name));
        let count = headers.len() as c_int;
        // SAFETY: all strings are NUL-terminated and outlive the call; both arrays have one entry per header.
        let handle = unsafe {
            (runtime.load)(
                file.as_ptr(),
                text.as_ptr(),
                count,
                names.as_ptr(),
                texts.as_ptr(),
                kernel.as_ptr(),
            )
        };
        if handle.is_null() {
            return Err(HostKernelError::Compile {
                name: source.name.to_string(),
                log: runtime.take_error(),
            });
        }
        Ok(HostKernel { name: name.to_string(), handle })
    }

    /// Runs the kernel to its end. The arguments are the bytes of each parameter.
    ///
    /// # Safety
    /// Pointers among the arguments are valid for all accesses of the kernel, and nothing else writes to that memory meanwhile.
    pub unsafe fn run(&self, launch: &HostLaunch, arguments: &[&[u8]]) -> Result<(), HostKernelError> {
        let runtime = HostRuntime::shared()?;
        let sizes: Vec<c_uint> = arguments.iter().map(|bytes| bytes.len() as c_uint).collect();
        let mut pointers: Vec<*mut c_void> =
            arguments.iter().map(|bytes| bytes.as_ptr().cast_mut().cast()).collect();
        // SAFETY: the handle is of a loaded kernel; the runtime compares the sizes with the parameters; the caller vouches for the
        // pointers among the arguments.
        let done = unsafe {
            (runtime.run)(
                self.handle,
                launch.grid.as_ptr(),
                launch.block.as_ptr(),
                launch.shared_bytes,
                arguments.len() as c_uint,
                sizes.as_ptr(),
                pointers.as_mut_ptr(),
            )
        };
        match done {
            0 => Err(HostKernelError::Run { name: self.name.clone(), why: runtime.take_error() }),
            _ => Ok(()),
        }
    }
}

type Load = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
    *const c_char,
) -> *mut c_void;
type Run = unsafe extern "C" fn(
    *mut c_void,
    *const c_uint,
    *const c_uint,
    c_uint,
    c_uint,
    *const c_uint,
    *mut *mut c_void,
) -> c_int;

/// Functions of the runtime library, which is never unloaded.
struct HostRuntime {
    load: Symbol<Load>,
    run: Symbol<Run>,
    last_error: Symbol<unsafe extern "C" fn(*mut c_char, usize) -> usize>,
    clear_error: Symbol<unsafe extern "C" fn()>,
    _library: Library,
}

impl HostRuntime {
    fn shared() -> Result<&'static HostRuntime, HostKernelError> {
        static SHARED: OnceLock<Result<HostRuntime, String>> = OnceLock::new();
        let open = || HostRuntime::open().map_err(|error| error.to_string());
        SHARED.get_or_init(open).as_ref().map_err(|why| HostKernelError::Runtime(why.clone()))
    }

    fn open() -> Result<HostRuntime, EmulatorError> {
        let library = runtime_library()?;
        let failed = |source| EmulatorError::Load { library: "fornax_emulator".into(), source };
        // SAFETY: each type is the type of the function in `emulator/runtime/`.
        unsafe {
            Ok(HostRuntime {
                load: library.get(b"fornax_emulator_load_host_kernel").map_err(failed)?,
                run: library.get(b"fornax_emulator_run_host_kernel").map_err(failed)?,
                last_error: library.get(b"fornax_emulator_last_error").map_err(failed)?,
                clear_error: library.get(b"fornax_emulator_clear_error").map_err(failed)?,
                _library: library,
            })
        }
    }

    fn take_error(&self) -> String {
        let message = crate::emulator::read_text(&self.last_error).unwrap_or_default();
        // SAFETY: the type is the type of the function in `emulator/runtime/errors.cpp`.
        unsafe { (self.clear_error)() };
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAUNCH: HostLaunch = HostLaunch { grid: [2, 1, 1], block: [4, 1, 1], shared_bytes: 0 };

    fn load(text: &str) -> Result<HostKernel, HostKernelError> {
        HostKernel::load(KernelSource { name: "host_test", text }, "host_test")
    }

    #[test]
    fn kernel_with_a_barrier_runs_on_host_memory() {
        let text = "extern \"C\" __global__ void host_test(const float* x, float* y, long long n) {\n  __shared__ float block[4];\n  \
                    block[threadIdx.x] = x[blockIdx.x * 4 + threadIdx.x];\n  __syncthreads();\n  \
                    y[blockIdx.x * 4 + threadIdx.x] = block[3 - threadIdx.x] + n;\n}\n";
        let kernel = load(text).expect("it compiles");
        let (x, mut y) = ([0f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [0f32; 8]);
        let (from, to, n) =
            ((x.as_ptr() as u64).to_ne_bytes(), (y.as_mut_ptr() as u64).to_ne_bytes(), 10i64.to_ne_bytes());
        // SAFETY: the kernel reads 8 floats of x and writes 8 of y.
        unsafe { kernel.run(&LAUNCH, &[&from, &to, &n]) }.expect("it runs");
        assert_eq!(y, [13.0, 12.0, 11.0, 10.0, 17.0, 16.0, 15.0, 14.0]);
        // SAFETY: the runtime rejects the arguments.
        let error = unsafe { kernel.run(&LAUNCH, &[&from, &to]) }.expect_err("an argument is missing");
        assert!(error.to_string().contains("3 parameters, and the launch 2 arguments"), "{error}");
    }

    #[test]
    fn error_of_the_compiler_names_file_and_line() {
        let error = load("#line 7 \"user.cu\"\nextern \"C\" __global__ void host_test() { undeclared(); }\n")
            .expect_err("a function is undeclared")
            .to_string();
        assert!(error.contains("user.cu:7:") && error.contains("undeclared"), "{error}");
    }
}
