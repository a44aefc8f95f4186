//! Kernel launches with checked arguments. The kernels of one dtype of a module are compiled, if necessary, and loaded at their first use,
//! which may be in a capture; a kernel's handle is looked up once per device.
pub(crate) mod arguments;
pub(crate) mod channels;
pub(crate) mod compilation;
pub(crate) mod kernel;
pub(crate) mod strided_pair;

use crate::cuda::library::versions::has_parameter_info;
use crate::cuda::stream::capture_lock::relaxed_capture;
use crate::cuda::{CudaError, Gpu, Kernel, KernelArg, LaunchConfig, Result};
use cudarc::driver::sys::{
    CUfunction, CUresult, cuFuncGetParamInfo, cuOccupancyMaxActiveBlocksPerMultiprocessor,
};
use cudarc::driver::{DriverError, result, sys::CUfunction_attribute};
use fornax_kernels::{KernelError, KernelSource};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

pub(crate) use kernel::{OCCUPANCY_THREADS, args, grid_extent, int, to_i32, to_i32s};

/// Kernel modules loaded on a device, and the kernels that were launched.
#[derive(Default)]
pub(in crate::cuda) struct KernelModules(Mutex<LoadedKernels>);

#[derive(Default)]
struct LoadedKernels {
    /// Modules by the name of their unit.
    modules: HashMap<String, CudaModule>,
    kernels: HashMap<Kernel, KernelFunction>,
    /// Kernels of generated and declared sources, by their keys.
    generated: HashMap<String, KernelFunction>,
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
    /// Bytes of each parameter, as reported by the driver; `None` if it is older than CUDA 12.4, which does not report them.
    parameter_sizes: Option<Arc<[usize]>>,
    static_shared_bytes: u32,
    /// Number of blocks of 256 threads, without dynamic shared memory, that are resident on the device at once.
    resident_blocks: u32,
}
// SAFETY: a function is a handle that any thread may use.
unsafe impl Send for KernelFunction {}

/// Maximum shared memory of a block, static and dynamic, without opt-in.
const DEFAULT_SHARED_LIMIT: u32 = 48 << 10;

/// Maximum number of arguments of a kernel.
const MAX_ARGUMENTS: usize = 32;

impl Gpu {
    /// Queues a kernel. Returns an error unless the arguments match the kernel's parameters in number and size. The caller must ensure that
    /// slices cover all memory that the kernel accesses.
    pub(crate) fn launch(&self, kernel: Kernel, grid: LaunchConfig, args: &[KernelArg]) -> Result<()> {
        let _access = self.bind()?;
        let function = self.kernel_function(kernel)?;
        self.launch_function(&kernel, &function, grid, args)
    }

    /// Number of blocks of 256 threads of a kernel that are resident on the device at once.
    pub(crate) fn resident_blocks(&self, kernel: Kernel) -> Result<usize> {
        let _access = self.bind()?;
        Ok(self.kernel_function(kernel)?.resident_blocks as usize)
    }

    /// Queues the kernel of a generated source, which has the source's name; compiles it at its first use.
    pub(crate) fn launch_generated(
        &self,
        source: &KernelSource,
        grid: LaunchConfig,
        args: &[KernelArg],
    ) -> Result<()> {
        self.launch_text(source.name, source.name, (source.name, source.text), grid, args)
    }

    /// Queues the kernel `name` of a source, a name and a text; compiles it at the first use of the key.
    pub(crate) fn launch_text(
        &self,
        key: &str,
        name: &str,
        (source_name, text): (&str, &str),
        grid: LaunchConfig,
        args: &[KernelArg],
    ) -> Result<()> {
        let source = KernelSource { name: source_name, text };
        self.launch_loaded(key, name, grid, args, || {
            self.load_module(source_name, |target| fornax_kernels::compile(source, target))
        })
    }

    /// Queues the kernel `name` of compiled code, a cubin or PTX that ends with a NUL; loads it at the first use of the key.
    pub(crate) fn launch_image(
        &self,
        key: &str,
        name: &str,
        image: &[u8],
        grid: LaunchConfig,
        args: &[KernelArg],
    ) -> Result<()> {
        self.launch_loaded(key, name, grid, args, || self.load_module(name, |_| Ok(image.to_vec())))
    }

    /// Makes the next launch of each kernel load it again, in the mode that the emulated device then has.
    #[cfg(feature = "testing")]
    pub(crate) fn forget_kernels(&self) {
        *self.modules.0.lock().unwrap_or_else(|e| e.into_inner()) = LoadedKernels::default();
    }

    fn launch_loaded(
        &self,
        key: &str,
        name: &str,
        grid: LaunchConfig,
        args: &[KernelArg],
        load: impl FnOnce() -> Result<CudaModule>,
    ) -> Result<()> {
        let _access = self.bind()?;
        let mut loaded = self.modules.0.lock().unwrap_or_else(|e| e.into_inner());
        let function = match loaded.generated.get(key) {
            Some(function) => function.clone(),
            None => {
                let function = self.look_up(&load()?, key, name)?;
                loaded.generated.insert(key.to_string(), function.clone());
                function
            }
        };
        drop(loaded);
        self.launch_function(&name, &function, grid, args)
    }

    fn launch_function(
        &self,
        kernel: &dyn fmt::Display,
        k: &KernelFunction,
        grid: LaunchConfig,
        args: &[KernelArg],
    ) -> Result<()> {
        let failed =
            |call: &str, e: DriverError| CudaError::from_driver(format!("{call} kernel {kernel}"), e);
        if let Some(value) = args.iter().find_map(KernelArg::too_large) {
            return Err(CudaError::new(format!(
                "kernel {kernel} takes 32-bit extents, but one is {value}: the maximum is 2^31 - 1"
            )));
        }
        if let Some(sizes) = &k.parameter_sizes
            && !args.iter().map(|a| a.bytes().len()).eq(sizes.iter().copied())
        {
            let given: Vec<usize> = args.iter().map(|a| a.bytes().len()).collect();
            return Err(CudaError::new(format!(
                "kernel {kernel} has parameters of {sizes:?} bytes, but the arguments have {given:?}"
            )));
        }
        if grid.shared_mem_bytes + k.static_shared_bytes > DEFAULT_SHARED_LIMIT {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to a module that is never unloaded.
            unsafe {
                result::function::set_function_attribute(k.function, attribute, grid.shared_mem_bytes as i32)
            }
            .map_err(|e| failed("reserving shared memory for", e))?;
        }
        self.launched.fetch_add(1, Ordering::Relaxed);
        let mut pointers = [std::ptr::null_mut::<c_void>(); MAX_ARGUMENTS];
        for (pointer, arg) in pointers.iter_mut().zip(args) {
            *pointer = arg.bytes().as_ptr().cast_mut().cast();
        }
        let (mut b, t) = (grid.grid_dim, grid.block_dim);
        if grid.is_grid_stride {
            b[0] = b[0].min(k.resident_blocks);
        }
        self.profiled(kernel, || {
            // SAFETY: the function is alive, and each argument has the size of its parameter; the launch copies them.
            unsafe {
                result::launch_kernel(
                    k.function,
                    (b[0], b[1], b[2]),
                    (t[0], t[1], t[2]),
                    grid.shared_mem_bytes,
                    self.stream(),
                    &mut pointers[..args.len()],
                )
            }
            .map_err(|e| failed("launching", e))
        })
    }

    /// Handle of a kernel; loads its module at its first use.
    fn kernel_function(&self, kernel: Kernel) -> Result<KernelFunction> {
        let mut loaded = self.modules.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(function) = loaded.kernels.get(&kernel) {
            return Ok(function.clone());
        }
        let name = kernel.to_string();
        let unit = fornax_kernels::kernel_unit(&name)
            .filter(|unit| unit.module.name == kernel.module)
            .ok_or_else(|| CudaError::new(format!("kernel module {} has no kernel {name}", kernel.module)))?;
        let unit_name = unit.name();
        if !loaded.modules.contains_key(&unit_name) {
            let module = self.load_module(&unit_name, |target| fornax_kernels::unit_image(unit, target))?;
            loaded.modules.insert(unit_name.clone(), module);
        }
        let function = self.look_up(&loaded.modules[&unit_name], &unit_name, &name)?;
        loaded.kernels.insert(kernel, function.clone());
        Ok(function)
    }

    fn load_module(
        &self,
        name: &str,
        image: impl FnOnce((u32, u32)) -> std::result::Result<Vec<u8>, KernelError>,
    ) -> Result<CudaModule> {
        let image = image(self.info().capability)
            .map_err(|e| CudaError::new(format!("kernel module {name} is not available: {e}")))?;
        // SAFETY: the image is a complete CUBIN, PTX or fatbin, which the driver checks.
        let module = relaxed_capture(|| unsafe { result::module::load_data(image.as_ptr().cast()) })
            .map_err(|e| CudaError::from_driver(format!("loading kernel module {name}"), e))?;
        Ok(CudaModule(module))
    }

    fn look_up(&self, module: &CudaModule, module_name: &str, name: &str) -> Result<KernelFunction> {
        let failed =
            |e| CudaError::from_driver(format!("looking up kernel {name} in kernel module {module_name}"), e);
        let c_name = CString::new(name).expect("a kernel's name has no NUL");
        let shared_size = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        let (function, parameters, shared, blocks) = relaxed_capture(|| {
            // SAFETY: the module is never unloaded.
            let function = unsafe { result::module::get_function(module.0, c_name) }?;
            // SAFETY: as above.
            let shared = unsafe { result::function::get_function_attribute(function, shared_size) }?;
            let parameters = has_parameter_info().then(|| parameter_sizes(function));
            Ok((function, parameters, shared, resident_blocks_per_multiprocessor(function)?))
        })
        .map_err(failed)?;
        if parameters.as_ref().is_some_and(|sizes| sizes.len() > MAX_ARGUMENTS) {
            return Err(CudaError::new(format!("kernel {name} has more than {MAX_ARGUMENTS} parameters")));
        }
        let resident_blocks = self.info().multiprocessors.max(1) * blocks.max(1);
        let static_shared_bytes = shared as u32;
        Ok(KernelFunction {
            function,
            parameter_sizes: parameters.map(Arc::from),
            static_shared_bytes,
            resident_blocks,
        })
    }
}

/// Bytes of each parameter.
fn parameter_sizes(function: CUfunction) -> Vec<usize> {
    let mut parameters = vec![];
    let (mut offset, mut size) = (0, 0);
    // SAFETY: the function is alive and both pointers are to locals; past the last parameter the call returns an error.
    while unsafe { cuFuncGetParamInfo(function, parameters.len(), &mut offset, &mut size) }
        == CUresult::CUDA_SUCCESS
    {
        parameters.push(size);
    }
    parameters
}

fn resident_blocks_per_multiprocessor(function: CUfunction) -> std::result::Result<u32, DriverError> {
    let mut blocks = 0;
    // SAFETY: the function is alive, and the pointer is to a local.
    unsafe {
        cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, function, OCCUPANCY_THREADS as i32, 0)
    }
    .result()?;
    Ok(blocks as u32)
}
