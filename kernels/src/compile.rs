//! Compilation at run time: NVRTC, opened by hand.
//!
//! cudarc's loader panics where a library is missing, and NVRTC comes with the toolkit, not with the driver: its functions are bound
//! here as plain pointers, with statuses as integers, so that a missing library is an error in words.
use crate::{Source, library};
use libloading::Library;
use sha2::{Digest, Sha256};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::OnceLock;

/// Why there is no image of a family of kernels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// No such source.
    #[error("there is no family of kernels {0:?}")]
    UnknownFamily(String),
    /// NVRTC is not there.
    #[error(
        "NVRTC, which compiles CUDA kernels, cannot be opened ({why}): install CUDA 13's toolkit, or \
         `pip install nvidia-cuda-nvrtc`, and set CUDA_HOME, VIRTUAL_ENV or LD_LIBRARY_PATH to where it is"
    )]
    Missing {
        /// What the dynamic loader said.
        why: String,
    },
    /// A call of NVRTC failed.
    #[error("NVRTC: {call} failed: {message} (status {status})")]
    Call {
        /// What was called.
        call: &'static str,
        /// What it answered.
        status: i32,
        /// The answer in NVRTC's words.
        message: String,
    },
    /// The source was refused.
    #[error("NVRTC refused {name}.cu for {target}:\n{log}")]
    Compile {
        /// The source's name.
        name: String,
        /// The architecture.
        target: Target,
        /// What the compiler printed.
        log: String,
    },
}

/// What is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Machine code of one architecture: 90 for sm_90.
    Machine(u32),
    /// PTX, which drivers translate for newer architectures: 90 for compute_90.
    Ptx(u32),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Machine(number) => write!(f, "sm_{number}"),
            Target::Ptx(number) => write!(f, "compute_{number}"),
        }
    }
}

/// An open NVRTC.
pub struct Nvrtc {
    functions: Functions,
    version: (i32, i32),
    architectures: Vec<u32>,
}

/// File names of the versions that are known to work, the one that Fornax is tested with first.
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// All that sources are compiled with beside the architecture. `-DNDEBUG` is what nvcc is given too.
const OPTIONS: [&str; 3] = ["-std=c++17", "--fmad=true", "-DNDEBUG"];

impl Nvrtc {
    /// The one of this process, opened at the first call: see [`library::places`] for where it is looked for.
    pub fn shared() -> Result<&'static Nvrtc, KernelError> {
        static SHARED: OnceLock<Result<Nvrtc, KernelError>> = OnceLock::new();
        let open = || {
            let (library, path) = library::open(&NAMES).map_err(|why| KernelError::Missing { why })?;
            load_builtins(&path);
            Nvrtc::bind(library)
        };
        SHARED.get_or_init(open).as_ref().map_err(Clone::clone)
    }

    /// The library in a file.
    pub fn open(path: &Path) -> Result<Nvrtc, KernelError> {
        load_builtins(path);
        // SAFETY: the initialisers of NVRTC have no preconditions.
        Nvrtc::bind(unsafe { Library::new(path) }.map_err(missing)?)
    }

    /// Major and minor version.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// The best that this NVRTC can do for a device: its own architecture, an older one of the same major number, whose machine code
    /// it runs too, or PTX of the newest.
    pub fn target(&self, capability: (u32, u32)) -> Target {
        best(&self.architectures, capability)
    }

    /// Compiles a source to a CUBIN or to PTX.
    pub fn compile<'a>(&self, source: impl Into<Source<'a>>, target: Target) -> Result<Vec<u8>, KernelError> {
        let given = source.into();
        let f = &self.functions;
        let c = |text: &str| CString::new(text).expect("sources and options hold no zero");
        let (source, name) = (c(given.text), c(&format!("kernels/cu/{}.cu", given.name)));
        let headers: Vec<(CString, CString)> =
            given.headers().iter().map(|(name, text)| (c(name), c(text))).collect();
        let header_names: Vec<*const c_char> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let header_texts: Vec<*const c_char> = headers.iter().map(|(_, text)| text.as_ptr()).collect();
        let mut options = OPTIONS.map(c).to_vec();
        options.push(c(&format!("--gpu-architecture={target}")));
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();

        let mut program = Program { functions: f, handle: null_mut() };
        // SAFETY: all strings end with a zero and outlive the program; both arrays have as many entries as there are headers.
        self.check("nvrtcCreateProgram", unsafe {
            let count = headers.len() as c_int;
            let (texts, names) = (header_texts.as_ptr(), header_names.as_ptr());
            (f.create)(&mut program.handle, source.as_ptr(), name.as_ptr(), count, texts, names)
        })?;
        // SAFETY: the program is alive, and the options are as many as said.
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
            Target::Machine(_) => self.text("nvrtcGetCUBIN", &program, f.cubin_size, f.cubin),
            Target::Ptx(_) => self.text("nvrtcGetPTX", &program, f.ptx_size, f.ptx),
        }
    }

    /// A name for all that an image depends on.
    pub(crate) fn key(&self, source: Source, target: Target) -> String {
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
        // SAFETY: each place takes an int.
        unsafe {
            nvrtc.check("nvrtcVersion", (nvrtc.functions.version)(&mut major, &mut minor))?;
            nvrtc.check("nvrtcGetNumSupportedArchs", (nvrtc.functions.architecture_count)(&mut count))?;
        }
        let mut architectures = vec![0; count as usize];
        // SAFETY: the array has as many entries as NVRTC asked for.
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
        // SAFETY: NVRTC gives a text for every number, which it keeps for ever.
        let message =
            unsafe { CStr::from_ptr((self.functions.error)(status)) }.to_string_lossy().into_owned();
        Err(KernelError::Call { call, status, message })
    }

    fn text(
        &self,
        call: &'static str,
        program: &Program,
        size: SizeOf,
        get: Get,
    ) -> Result<Vec<u8>, KernelError> {
        let mut bytes = 0;
        // SAFETY: the program is alive, and the place takes a size.
        self.check(call, unsafe { size(program.handle, &mut bytes) })?;
        let mut text = vec![0u8; bytes];
        // SAFETY: the text has as many bytes as NVRTC asked for.
        self.check(call, unsafe { get(program.handle, text.as_mut_ptr().cast()) })?;
        Ok(text)
    }
}

type Handle = *mut c_void;
type SizeOf = unsafe extern "C" fn(Handle, *mut usize) -> c_int;
type Get = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;

struct Program<'a> {
    functions: &'a Functions,
    handle: Handle,
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: the program was made by NVRTC and is destroyed once.
            unsafe { (self.functions.destroy)(&mut self.handle) };
        }
    }
}

fn best(architectures: &[u32], (major, minor): (u32, u32)) -> Target {
    let own = major * 10 + minor;
    let newest = |runs: &dyn Fn(u32) -> bool| architectures.iter().copied().filter(|n| runs(*n)).max();
    match newest(&|number| number / 10 == major && number <= own) {
        Some(number) => Target::Machine(number),
        None => Target::Ptx(newest(&|number| number <= own).unwrap_or(own)),
    }
}

/// NVRTC looks its second library up by name alone, which finds it where it was loaded before: from the same folder, for an NVRTC that
/// was found by its path. The dynamic loader finds both, or it does not have them both.
fn load_builtins(nvrtc: &Path) {
    let Some(folder) = nvrtc.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return };
    let is_builtins = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libnvrtc-builtins.so"))
    };
    for path in library::entries(folder).into_iter().filter(is_builtins) {
        // SAFETY: a library of tables, whose initialisers have no preconditions.
        if let Ok(library) = unsafe { Library::new(path) } {
            std::mem::forget(library);
        }
    }
}

fn missing(error: libloading::Error) -> KernelError {
    let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
    KernelError::Missing { why }
}

/// Declares NVRTC's functions and finds them in the library, which stays open as long as they are.
macro_rules! functions {
    ($($field:ident = $symbol:literal: $type:ty;)*) => {
        struct Functions {
            $($field: $type,)*
            _library: Library,
        }

        impl Functions {
            fn bind(library: Library) -> Result<Functions, KernelError> {
                $(
                    // SAFETY: the type is the one of nvrtc.h; the pointer is used no longer than the library is open.
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
        *mut Handle, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> c_int;
    destroy = b"nvrtcDestroyProgram": unsafe extern "C" fn(*mut Handle) -> c_int;
    compile = b"nvrtcCompileProgram": unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int;
    log_size = b"nvrtcGetProgramLogSize": SizeOf;
    log = b"nvrtcGetProgramLog": Get;
    cubin_size = b"nvrtcGetCUBINSize": SizeOf;
    cubin = b"nvrtcGetCUBIN": Get;
    ptx_size = b"nvrtcGetPTXSize": SizeOf;
    ptx = b"nvrtcGetPTX": Get;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_gets_code_that_it_runs() {
        let known = [75, 80, 86, 90, 100];
        assert_eq!(best(&known, (9, 0)), Target::Machine(90));
        assert_eq!(best(&known, (8, 9)), Target::Machine(86));
        assert_eq!(best(&known, (8, 0)), Target::Machine(80));
        // Newer than all machine code: the driver translates.
        assert_eq!(best(&known, (12, 0)), Target::Ptx(100));
        // Older than all: NVRTC will say so itself.
        assert_eq!(best(&known, (5, 2)), Target::Ptx(52));
    }

    #[test]
    fn a_missing_compiler_is_an_error_that_says_how_to_get_it() {
        let Err(error) = Nvrtc::open(Path::new("/nowhere/libnvrtc.so.13")) else { panic!("there is none") };
        let text = error.to_string();
        assert!(text.contains("/nowhere/libnvrtc.so.13") && text.contains("pip install"), "{text}");
    }

    #[test]
    fn another_library_is_not_taken_for_a_compiler() {
        let Err(error) = Nvrtc::open(Path::new("libc.so.6")) else { panic!("it is a C library") };
        assert!(error.to_string().contains("nvrtcVersion"), "{error}");
    }
}
