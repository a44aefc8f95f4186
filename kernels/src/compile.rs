//! Run-time compilation with NVRTC, bound at run time.
//!
//! cudarc's loader panics if a library is missing, and NVRTC comes with the CUDA toolkit, not with the driver. Its functions are bound
//! here as plain pointers, with statuses as integers, so that a missing library is an ordinary error.
use crate::{KernelSource, library};
use libloading::Library;
use sha2::{Digest, Sha256};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::OnceLock;

/// Error of [`crate::unit_image`] or [`crate::compile`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// NVRTC was not found.
    #[error(
        "NVRTC, which compiles CUDA kernels, cannot be opened ({why}): install CUDA 13's toolkit, or \
         `pip install nvidia-cuda-nvrtc`, and set CUDA_HOME, VIRTUAL_ENV or LD_LIBRARY_PATH to where it is"
    )]
    Missing {
        /// Message of the dynamic loader.
        why: String,
    },
    /// A call of NVRTC failed.
    #[error("NVRTC: {call} failed: {message} (status {status})")]
    Call {
        /// Name of the function.
        call: &'static str,
        /// Status that it returned.
        status: i32,
        /// NVRTC's text for the status.
        message: String,
    },
    /// The source does not compile.
    #[error("NVRTC cannot compile {name}.cu for {target}:\n{log}")]
    Compile {
        /// Name of the source.
        name: String,
        /// Architecture.
        target: CompileTarget,
        /// Log of the compiler.
        log: String,
    },
}

/// Target architecture of a compilation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompileTarget {
    /// Machine code for one architecture: 90 for sm_90.
    Cubin(u32),
    /// PTX, which the driver compiles for newer architectures: 90 for compute_90.
    Ptx(u32),
}

impl std::fmt::Display for CompileTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CompileTarget::Cubin(number) => write!(f, "sm_{number}"),
            CompileTarget::Ptx(number) => write!(f, "compute_{number}"),
        }
    }
}

/// The NVRTC library, loaded at run time.
pub struct Nvrtc {
    functions: Functions,
    version: (i32, i32),
    architectures: Vec<u32>,
}

/// File names of versions known to work; the first is the one Fornax is tested with.
const LIBRARY_NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// Compiler options besides the architecture; the same as nvcc gets in `build.rs`.
const OPTIONS: [&str; 3] = ["-std=c++17", "--fmad=true", "-DNDEBUG"];

impl Nvrtc {
    /// NVRTC of this process, loaded at the first call; see [`library::candidate_paths`] for the search order.
    pub fn shared() -> Result<&'static Nvrtc, KernelError> {
        static SHARED: OnceLock<Result<Nvrtc, KernelError>> = OnceLock::new();
        let open = || {
            let names = library::for_driver(&LIBRARY_NAMES);
            let (library, _) = library::open(&names).map_err(|why| KernelError::Missing { why })?;
            Nvrtc::bind(library)
        };
        SHARED.get_or_init(open).as_ref().map_err(Clone::clone)
    }

    /// Loads NVRTC from a file.
    pub fn open(path: &Path) -> Result<Nvrtc, KernelError> {
        library::load_companions(path);
        // SAFETY: the initialisers of NVRTC have no preconditions.
        Nvrtc::bind(unsafe { Library::new(path) }.map_err(missing)?)
    }

    /// Version, as (major, minor).
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Best target for a device that this NVRTC supports: the device's architecture, else the newest older one of the same major version,
    /// whose machine code the device also runs, else PTX for the newest older one.
    pub fn target(&self, capability: (u32, u32)) -> CompileTarget {
        best_target(&self.architectures, capability)
    }

    /// Compiles a source to a CUBIN or to PTX, depending on the target.
    pub fn compile<'a>(
        &self,
        source: impl Into<KernelSource<'a>>,
        target: CompileTarget,
    ) -> Result<Vec<u8>, KernelError> {
        let given = source.into();
        let f = &self.functions;
        let c = |text: &str| CString::new(text).expect("sources and options contain no NUL");
        let (source, name) = (c(given.text), c(&given.file()));
        let headers: Vec<(CString, CString)> =
            given.headers().iter().map(|(name, text)| (c(name), c(text))).collect();
        let header_names: Vec<*const c_char> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let header_texts: Vec<*const c_char> = headers.iter().map(|(_, text)| text.as_ptr()).collect();
        let mut options = OPTIONS.map(c).to_vec();
        options.push(c(&format!("--gpu-architecture={target}")));
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();

        let mut program = NvrtcProgram { functions: f, handle: null_mut() };
        // SAFETY: all strings are NUL-terminated and outlive the program; both arrays have one entry per header.
        self.check("nvrtcCreateProgram", unsafe {
            let count = headers.len() as c_int;
            let (texts, names) = (header_texts.as_ptr(), header_names.as_ptr());
            (f.create)(&mut program.handle, source.as_ptr(), name.as_ptr(), count, texts, names)
        })?;
        // SAFETY: the program is alive, and the array has `options.len()` entries.
        let status = unsafe { (f.compile)(program.handle, options.len() as c_int, options.as_ptr()) };
        if status != 0 {
            let log = self.text("nvrtcGetProgramLog", &program, f.log_size, f.log)?;
            let log = String::from_utf8_lossy(&log).trim_end_matches('\0').trim_end().to_string();
            if !log.is_empty() {
                return Err(KernelError::Compile { name: given.name.to_string(), target, log });
            }
        }
        self.check("nvrtcCompileProgram", status)?;
        match target {
            CompileTarget::Cubin(_) => self.text("nvrtcGetCUBIN", &program, f.cubin_size, f.cubin),
            CompileTarget::Ptx(_) => self.text("nvrtcGetPTX", &program, f.ptx_size, f.ptx),
        }
    }

    /// Cache key of an image: the source's name, the target, and a hash of everything that the image depends on.
    pub(crate) fn key(&self, source: KernelSource, target: CompileTarget) -> String {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        add(&format!("{:?}", self.version));
        OPTIONS.iter().for_each(|option| add(option));
        add(&target.to_string());
        add(source.text);
        for (name, text) in source.headers() {
            add(name);
            add(text);
        }
        let digits: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{target}-{digits}", source.name)
    }

    fn bind(library: Library) -> Result<Nvrtc, KernelError> {
        let functions = Functions::bind(library)?;
        let mut nvrtc = Nvrtc { functions, version: (0, 0), architectures: vec![] };
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: each pointer is to an int.
        unsafe {
            nvrtc.check("nvrtcVersion", (nvrtc.functions.version)(&mut major, &mut minor))?;
            nvrtc.check("nvrtcGetNumSupportedArchs", (nvrtc.functions.architecture_count)(&mut count))?;
        }
        let mut architectures = vec![0; count as usize];
        // SAFETY: the array has the number of entries that NVRTC returned.
        let status = unsafe { (nvrtc.functions.architectures)(architectures.as_mut_ptr()) };
        nvrtc.check("nvrtcGetSupportedArchs", status)?;
        nvrtc.version = (major, minor);
        nvrtc.architectures = architectures.into_iter().map(|number| number as u32).collect();
        Ok(nvrtc)
    }

    fn check(&self, call: &'static str, status: c_int) -> Result<(), KernelError> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: NVRTC returns a static string for every status.
        let message =
            unsafe { CStr::from_ptr((self.functions.error)(status)) }.to_string_lossy().into_owned();
        Err(KernelError::Call { call, status, message })
    }

    fn text(
        &self,
        call: &'static str,
        program: &NvrtcProgram,
        size: GetSize,
        get: GetBytes,
    ) -> Result<Vec<u8>, KernelError> {
        let mut bytes = 0;
        // SAFETY: the program is alive, and the pointer is to a size.
        self.check(call, unsafe { size(program.handle, &mut bytes) })?;
        let mut text = vec![0u8; bytes];
        // SAFETY: the buffer has the number of bytes that NVRTC returned.
        self.check(call, unsafe { get(program.handle, text.as_mut_ptr().cast()) })?;
        Ok(text)
    }
}

type ProgramHandle = *mut c_void;
type GetSize = unsafe extern "C" fn(ProgramHandle, *mut usize) -> c_int;
type GetBytes = unsafe extern "C" fn(ProgramHandle, *mut c_char) -> c_int;

struct NvrtcProgram<'a> {
    functions: &'a Functions,
    handle: ProgramHandle,
}

impl Drop for NvrtcProgram<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: the program was created by NVRTC and is destroyed once.
            unsafe { (self.functions.destroy)(&mut self.handle) };
        }
    }
}

fn best_target(architectures: &[u32], (major, minor): (u32, u32)) -> CompileTarget {
    let own = major * 10 + minor;
    let newest = |runs: &dyn Fn(u32) -> bool| architectures.iter().copied().filter(|n| runs(*n)).max();
    match newest(&|number| number / 10 == major && number <= own) {
        Some(number) => CompileTarget::Cubin(number),
        None => CompileTarget::Ptx(newest(&|number| number <= own).unwrap_or(own)),
    }
}

fn missing(error: libloading::Error) -> KernelError {
    let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
    KernelError::Missing { why }
}

/// Declares NVRTC's functions and looks them up in the library, which stays open as long as the struct lives.
macro_rules! functions {
    ($($field:ident = $symbol:literal: $type:ty;)*) => {
        struct Functions {
            $($field: $type,)*
            _library: Library,
        }

        impl Functions {
            fn bind(library: Library) -> Result<Functions, KernelError> {
                $(
                    // SAFETY: the type is that of nvrtc.h; the pointer is not used after the library is closed.
                    let $field = *unsafe { library.get::<$type>($symbol) }.map_err(missing)?;
                )*
                Ok(Functions { $($field,)* _library: library })
            }
        }
    };
}

functions! {
    version = b"nvrtcVersion": unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
    error = b"nvrtcGetErrorString": unsafe extern "C" fn(c_int) -> *const c_char;
    architecture_count = b"nvrtcGetNumSupportedArchs": unsafe extern "C" fn(*mut c_int) -> c_int;
    architectures = b"nvrtcGetSupportedArchs": unsafe extern "C" fn(*mut c_int) -> c_int;
    create = b"nvrtcCreateProgram": unsafe extern "C" fn(
        *mut ProgramHandle, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> c_int;
    destroy = b"nvrtcDestroyProgram": unsafe extern "C" fn(*mut ProgramHandle) -> c_int;
    compile = b"nvrtcCompileProgram": unsafe extern "C" fn(ProgramHandle, c_int, *const *const c_char) -> c_int;
    log_size = b"nvrtcGetProgramLogSize": GetSize;
    log = b"nvrtcGetProgramLog": GetBytes;
    cubin_size = b"nvrtcGetCUBINSize": GetSize;
    cubin = b"nvrtcGetCUBIN": GetBytes;
    ptx_size = b"nvrtcGetPTXSize": GetSize;
    ptx = b"nvrtcGetPTX": GetBytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_target_is_an_architecture_that_the_device_runs() {
        let known = [75, 80, 86, 90, 100];
        assert_eq!(best_target(&known, (9, 0)), CompileTarget::Cubin(90));
        assert_eq!(best_target(&known, (8, 9)), CompileTarget::Cubin(86));
        assert_eq!(best_target(&known, (8, 0)), CompileTarget::Cubin(80));
        // Newer than all supported architectures: the driver compiles PTX.
        assert_eq!(best_target(&known, (12, 0)), CompileTarget::Ptx(100));
        // Older than all: NVRTC reports the error.
        assert_eq!(best_target(&known, (5, 2)), CompileTarget::Ptx(52));
    }

    #[test]
    fn missing_nvrtc_is_an_error_with_a_remedy() {
        let Err(error) = Nvrtc::open(Path::new("/nowhere/libnvrtc.so.13")) else { panic!("no such file") };
        let text = error.to_string();
        assert!(text.contains("/nowhere/libnvrtc.so.13") && text.contains("pip install"), "{text}");
    }

    #[test]
    fn library_without_nvrtc_functions_is_rejected() {
        let Err(error) = Nvrtc::open(Path::new("libc.so.6")) else { panic!("libc is not NVRTC") };
        assert!(error.to_string().contains("nvrtcVersion"), "{error}");
    }
}
