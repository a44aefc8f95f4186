//! Kernel launches with checked arguments. A kernel module is compiled, if necessary, and loaded at its first use.
use super::{CudaError, DeviceSlice, Gpu, Result};
use cudarc::driver::sys::{CUfunction, CUresult, cuFuncGetParamInfo};
use cudarc::driver::{DriverError, result, sys::CUfunction_attribute};
use fornax_kernels::{KernelError, KernelSource};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Launch configuration: grid, block, and bytes of dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaunchConfig {
    pub(crate) grid_dim: [u32; 3],
    pub(crate) block_dim: [u32; 3],
    pub(crate) shared_mem_bytes: u32,
}

impl LaunchConfig {
    /// Blocks of 256 threads for a grid-stride loop over `items`; at most 4096 blocks, which fill a large device a few times.
    pub(crate) fn grid_stride(items: usize) -> LaunchConfig {
        LaunchConfig::linear(items.div_ceil(256).clamp(1, 4096), 256)
    }

    /// One-dimensional grid and block.
    pub(crate) fn linear(blocks: usize, threads: usize) -> LaunchConfig {
        LaunchConfig {
            grid_dim: [blocks as u32, 1, 1],
            block_dim: [threads as u32, 1, 1],
            shared_mem_bytes: 0,
        }
    }
}

/// Kernel argument, as the bytes that are passed.
#[derive(Clone, Copy)]
pub(crate) struct KernelArg<'a>(ArgBytes<'a>);

#[derive(Clone, Copy)]
enum ArgBytes<'a> {
    Four([u8; 4]),
    Eight([u8; 8]),
    Struct(&'a [u8]),
}

impl<'a> KernelArg<'a> {
    /// Plain struct passed by value; it must have the layout of the struct in the kernel's source.
    pub(crate) fn by_value<T: bytemuck::NoUninit>(value: &'a T) -> KernelArg<'a> {
        KernelArg(ArgBytes::Struct(bytemuck::bytes_of(value)))
    }

    /// Pointer, null for `None`.
    pub(crate) fn optional(slice: Option<DeviceSlice>) -> KernelArg<'static> {
        KernelArg(ArgBytes::Eight(slice.map_or(0, |s| s.pointer).to_ne_bytes()))
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            ArgBytes::Four(b) => b,
            ArgBytes::Eight(b) => b,
            ArgBytes::Struct(b) => b,
        }
    }
}

impl From<DeviceSlice<'_>> for KernelArg<'static> {
    fn from(slice: DeviceSlice) -> Self {
        KernelArg(ArgBytes::Eight(slice.pointer.to_ne_bytes()))
    }
}
impl From<&DeviceSlice<'_>> for KernelArg<'static> {
    fn from(slice: &DeviceSlice) -> Self {
        KernelArg::from(*slice)
    }
}
impl From<i32> for KernelArg<'static> {
    fn from(value: i32) -> Self {
        KernelArg(ArgBytes::Four(value.to_ne_bytes()))
    }
}
impl From<u32> for KernelArg<'static> {
    fn from(value: u32) -> Self {
        KernelArg(ArgBytes::Four(value.to_ne_bytes()))
    }
}
impl From<f32> for KernelArg<'static> {
    fn from(value: f32) -> Self {
        KernelArg(ArgBytes::Four(value.to_ne_bytes()))
    }
}
/// Number of elements, `long long` in a kernel.
impl From<usize> for KernelArg<'static> {
    fn from(value: usize) -> Self {
        KernelArg(ArgBytes::Eight((value as i64).to_ne_bytes()))
    }
}

/// Arguments of a launch, in the kernel's order: slices, numbers (`usize` becomes `long long`), [`KernelArg`]s.
macro_rules! args {
    ($($value:expr),* $(,)?) => {
        &[$($crate::cuda::KernelArg::from($value)),*]
    };
}
pub(crate) use args;

/// Kernel modules loaded on a device, by name.
#[derive(Default)]
pub(super) struct KernelModules(Mutex<HashMap<String, Arc<KernelModule>>>);

struct KernelModule {
    module: CudaModule,
    kernels: Mutex<HashMap<String, KernelFunction>>,
}

/// Loaded CUDA module. It is never unloaded, because its functions are used until the process ends.
struct CudaModule(cudarc::driver::sys::CUmodule);
// SAFETY: a module is a handle that any thread may use.
unsafe impl Send for CudaModule {}
// SAFETY: as above.
unsafe impl Sync for CudaModule {}

#[derive(Clone)]
struct KernelFunction {
    function: CUfunction,
    /// Bytes of each parameter, as reported by the driver.
    parameter_sizes: Arc<[usize]>,
}
// SAFETY: a function is a handle that any thread may use.
unsafe impl Send for KernelFunction {}

/// Maximum dynamic shared memory without opt-in.
const DEFAULT_SHARED_LIMIT: u32 = 48 << 10;

impl Gpu {
    /// Queues a kernel of a kernel module. Returns an error unless the arguments match the kernel's parameters in number and size. The
    /// caller must ensure that slices cover all memory that the kernel accesses.
    pub(crate) fn launch(
        &self,
        module: &'static str,
        kernel: &str,
        grid: LaunchConfig,
        args: &[KernelArg],
    ) -> Result<()> {
        let _access = self.bind()?;
        let image = |capability| fornax_kernels::module_image(module, capability);
        let k = self.module(module, image)?.kernel(module, kernel)?;
        self.launch_kernel(kernel, &k, grid, args)
    }

    /// Queues the kernel of a generated source, which has the source's name; compiles it at its first use.
    pub(crate) fn launch_generated(
        &self,
        source: &KernelSource,
        grid: LaunchConfig,
        args: &[KernelArg],
    ) -> Result<()> {
        let _access = self.bind()?;
        let image = |capability| fornax_kernels::compile(*source, capability);
        let k = self.module(source.name, image)?.kernel(source.name, source.name)?;
        self.launch_kernel(source.name, &k, grid, args)
    }

    fn launch_kernel(
        &self,
        kernel: &str,
        k: &KernelFunction,
        grid: LaunchConfig,
        args: &[KernelArg],
    ) -> Result<()> {
        let failed =
            |call: &str, e: DriverError| CudaError::from_driver(format!("{call} kernel {kernel}"), e);
        let given: Vec<usize> = args.iter().map(|a| a.bytes().len()).collect();
        if given[..] != k.parameter_sizes[..] {
            return Err(CudaError::new(format!(
                "kernel {kernel} has parameters of {:?} bytes, but the arguments have {given:?}",
                k.parameter_sizes
            )));
        }
        if grid.shared_mem_bytes > DEFAULT_SHARED_LIMIT {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to a module that is never unloaded.
            unsafe {
                result::function::set_function_attribute(k.function, attribute, grid.shared_mem_bytes as i32)
            }
            .map_err(|e| failed("reserving shared memory for", e))?;
        }
        self.launched.fetch_add(1, Ordering::Relaxed);
        let mut pointers: Vec<*mut c_void> =
            args.iter().map(|a| a.bytes().as_ptr().cast_mut().cast()).collect();
        let (b, t) = (grid.grid_dim, grid.block_dim);
        // SAFETY: the function is alive, and each argument has the size of its parameter; the launch copies them.
        unsafe {
            result::launch_kernel(
                k.function,
                (b[0], b[1], b[2]),
                (t[0], t[1], t[2]),
                grid.shared_mem_bytes,
                self.stream(),
                &mut pointers,
            )
        }
        .map_err(|e| failed("launching", e))
    }

    /// Returns the kernel module of that name; loads it from `image` at its first use.
    fn module(
        &self,
        name: &str,
        image: impl FnOnce((u32, u32)) -> std::result::Result<Vec<u8>, KernelError>,
    ) -> Result<Arc<KernelModule>> {
        let mut modules = self.modules.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(module) = modules.get(name) {
            return Ok(module.clone());
        }
        let image = image(self.info().capability)
            .map_err(|e| CudaError::new(format!("kernel module {name} is not available: {e}")))?;
        // SAFETY: the image is a complete CUBIN, PTX or fatbin, which the driver checks.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }
            .map_err(|e| CudaError::from_driver(format!("loading kernel module {name}"), e))?;
        let module = Arc::new(KernelModule { module: CudaModule(module), kernels: Mutex::default() });
        modules.insert(name.to_string(), module.clone());
        Ok(module)
    }
}

impl KernelModule {
    fn kernel(&self, module: &str, name: &str) -> Result<KernelFunction> {
        let mut kernels = self.kernels.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(kernel) = kernels.get(name) {
            return Ok(kernel.clone());
        }
        let c_name = CString::new(name).expect("a kernel's name has no NUL");
        // SAFETY: the module is never unloaded.
        let function = unsafe { result::module::get_function(self.module.0, c_name) }.map_err(|e| {
            CudaError::from_driver(format!("looking up kernel {name} in kernel module {module}"), e)
        })?;
        let mut parameters = vec![];
        let (mut offset, mut size) = (0, 0);
        // SAFETY: the function is alive and both pointers are to locals; past the last parameter the call returns an error.
        while unsafe { cuFuncGetParamInfo(function, parameters.len(), &mut offset, &mut size) }
            == CUresult::CUDA_SUCCESS
        {
            parameters.push(size);
        }
        let kernel = KernelFunction { function, parameter_sizes: parameters.into() };
        kernels.insert(name.to_string(), kernel.clone());
        Ok(kernel)
    }
}
