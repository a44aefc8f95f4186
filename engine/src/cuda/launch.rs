//! Kernel launches with their arguments checked: a family is compiled and loaded at its first use.
use super::{CudaError, DeviceSlice, Gpu, Result};
use cudarc::driver::sys::{CUfunction, CUresult, cuFuncGetParamInfo};
use cudarc::driver::{DriverError, result, sys::CUfunction_attribute};
use fornax_kernels::{KernelError, Source};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// How many blocks of how many threads run a kernel, with how many bytes of dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) blocks: [u32; 3],
    pub(crate) threads: [u32; 3],
    pub(crate) shared: u32,
}

impl Grid {
    /// Blocks of 256 threads for a grid-stride loop over `items`; never more than fill a large device a few times.
    pub(crate) fn stride(items: usize) -> Grid {
        Grid::line(items.div_ceil(256).clamp(1, 4096), 256)
    }

    /// So many blocks of so many threads in one dimension.
    pub(crate) fn line(blocks: usize, threads: usize) -> Grid {
        Grid { blocks: [blocks as u32, 1, 1], threads: [threads as u32, 1, 1], shared: 0 }
    }
}

/// One argument of a kernel: the bytes it is passed as.
#[derive(Clone, Copy)]
pub(crate) struct Arg<'a>(Bytes<'a>);

#[derive(Clone, Copy)]
enum Bytes<'a> {
    Four([u8; 4]),
    Eight([u8; 8]),
    Struct(&'a [u8]),
}

impl<'a> Arg<'a> {
    /// A plain struct by value, the twin of one in the kernel's source.
    pub(crate) fn of<T: bytemuck::NoUninit>(value: &'a T) -> Arg<'a> {
        Arg(Bytes::Struct(bytemuck::bytes_of(value)))
    }

    /// A pointer that may be absent.
    pub(crate) fn optional(slice: Option<DeviceSlice>) -> Arg<'static> {
        Arg(Bytes::Eight(slice.map_or(0, |s| s.pointer).to_ne_bytes()))
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Four(b) => b,
            Bytes::Eight(b) => b,
            Bytes::Struct(b) => b,
        }
    }
}

impl From<DeviceSlice<'_>> for Arg<'static> {
    fn from(slice: DeviceSlice) -> Self {
        Arg(Bytes::Eight(slice.pointer.to_ne_bytes()))
    }
}
impl From<&DeviceSlice<'_>> for Arg<'static> {
    fn from(slice: &DeviceSlice) -> Self {
        Arg::from(*slice)
    }
}
impl From<i32> for Arg<'static> {
    fn from(value: i32) -> Self {
        Arg(Bytes::Four(value.to_ne_bytes()))
    }
}
impl From<u32> for Arg<'static> {
    fn from(value: u32) -> Self {
        Arg(Bytes::Four(value.to_ne_bytes()))
    }
}
impl From<f32> for Arg<'static> {
    fn from(value: f32) -> Self {
        Arg(Bytes::Four(value.to_ne_bytes()))
    }
}
/// A count of elements, `long long` in a kernel.
impl From<usize> for Arg<'static> {
    fn from(value: usize) -> Self {
        Arg(Bytes::Eight((value as i64).to_ne_bytes()))
    }
}

/// Arguments of a launch, in the kernel's order: slices, numbers (`usize` becomes `long long`), [`Arg`]s.
macro_rules! args {
    ($($value:expr),* $(,)?) => {
        &[$($crate::cuda::Arg::from($value)),*]
    };
}
pub(crate) use args;

/// The families that a device has loaded.
#[derive(Default)]
pub(super) struct Families(Mutex<HashMap<String, Arc<Family>>>);

struct Family {
    module: Module,
    kernels: Mutex<HashMap<String, Kernel>>,
}

/// A loaded module; never unloaded, as its functions are handed out for the life of the process.
struct Module(cudarc::driver::sys::CUmodule);
// SAFETY: a module is a handle that any thread may use.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

#[derive(Clone)]
struct Kernel {
    function: CUfunction,
    /// Bytes of each parameter, as the device tells.
    parameters: Arc<[usize]>,
}
// SAFETY: a function is a handle that any thread may use.
unsafe impl Send for Kernel {}

/// Dynamic shared memory that needs no opting in.
const FREE_SHARED: u32 = 48 << 10;

impl Gpu {
    /// Queues a kernel of a family. The arguments must be what the kernel takes, in number and size; that slices cover what the
    /// kernel touches is the launcher's care.
    pub(crate) fn launch(&self, family: &'static str, kernel: &str, grid: Grid, args: &[Arg]) -> Result<()> {
        let _turn = self.bind()?;
        let image = |capability| fornax_kernels::module_image(family, capability);
        let k = self.family(family, image)?.kernel(family, kernel)?;
        self.launch_kernel(kernel, &k, grid, args)
    }

    /// As [`Gpu::launch`], for the one kernel of a generated source, which is called as that is; compiled at its first use.
    pub(crate) fn launch_generated(&self, source: &Source, grid: Grid, args: &[Arg]) -> Result<()> {
        let _turn = self.bind()?;
        let image = |capability| fornax_kernels::compile(*source, capability);
        let k = self.family(source.name, image)?.kernel(source.name, source.name)?;
        self.launch_kernel(source.name, &k, grid, args)
    }

    fn launch_kernel(&self, kernel: &str, k: &Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
        let failed = |call: &str, e: DriverError| CudaError::driver(format!("{call} kernel {kernel}"), e);
        let given: Vec<usize> = args.iter().map(|a| a.bytes().len()).collect();
        if given[..] != k.parameters[..] {
            return Err(CudaError::new(format!(
                "kernel {kernel} takes arguments of {:?} bytes, and was given {given:?}",
                k.parameters
            )));
        }
        if grid.shared > FREE_SHARED {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to a module that is never unloaded.
            unsafe { result::function::set_function_attribute(k.function, attribute, grid.shared as i32) }
                .map_err(|e| failed("reserving shared memory for", e))?;
        }
        self.launched.fetch_add(1, Ordering::Relaxed);
        let mut pointers: Vec<*mut c_void> =
            args.iter().map(|a| a.bytes().as_ptr().cast_mut().cast()).collect();
        let (b, t) = (grid.blocks, grid.threads);
        // SAFETY: the function is alive, and each argument has the size of its parameter; a launch copies them.
        unsafe {
            result::launch_kernel(
                k.function,
                (b[0], b[1], b[2]),
                (t[0], t[1], t[2]),
                grid.shared,
                self.stream(),
                &mut pointers,
            )
        }
        .map_err(|e| failed("launching", e))
    }

    /// The family of that name; `image` is called when it was not used before.
    fn family(
        &self,
        name: &str,
        image: impl FnOnce((u32, u32)) -> std::result::Result<Vec<u8>, KernelError>,
    ) -> Result<Arc<Family>> {
        let mut families = self.families.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(family) = families.get(name) {
            return Ok(family.clone());
        }
        let image = image(self.info().capability)
            .map_err(|e| CudaError::new(format!("the kernels of {name} are not available: {e}")))?;
        // SAFETY: the image is a whole cubin or fatbin, which the driver checks.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }
            .map_err(|e| CudaError::driver(format!("loading the kernels of {name}"), e))?;
        let family = Arc::new(Family { module: Module(module), kernels: Mutex::default() });
        families.insert(name.to_string(), family.clone());
        Ok(family)
    }
}

impl Family {
    fn kernel(&self, family: &str, name: &str) -> Result<Kernel> {
        let mut kernels = self.kernels.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(kernel) = kernels.get(name) {
            return Ok(kernel.clone());
        }
        let c_name = CString::new(name).expect("a kernel's name has no NUL");
        // SAFETY: the module is never unloaded.
        let function = unsafe { result::module::get_function(self.module.0, c_name) }
            .map_err(|e| CudaError::driver(format!("looking up kernel {name} of {family}"), e))?;
        let mut parameters = vec![];
        let (mut offset, mut size) = (0, 0);
        // SAFETY: the function is alive and both places are ours; past the last parameter the call is refused.
        while unsafe { cuFuncGetParamInfo(function, parameters.len(), &mut offset, &mut size) }
            == CUresult::CUDA_SUCCESS
        {
            parameters.push(size);
        }
        let kernel = Kernel { function, parameters: parameters.into() };
        kernels.insert(name.to_string(), kernel.clone());
        Ok(kernel)
    }
}
