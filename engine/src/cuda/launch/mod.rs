//! Kernel launches with checked arguments. The kernels of one dtype of a module are compiled, if necessary, and loaded at their first use,
//! which may be in a capture; a kernel's handle is looked up once per device.
pub(crate) mod arguments;
pub(crate) mod channels;
pub(crate) mod compilation;
pub(crate) mod strided_pair;

use crate::DType;
use crate::cuda::library::versions::has_parameter_info;
use crate::cuda::stream::capture_lock::relaxed_capture;
use crate::cuda::{CudaError, DeviceSlice, Gpu, Result};
use cudarc::driver::sys::{
    CUfunction, CUresult, cuFuncGetParamInfo, cuOccupancyMaxActiveBlocksPerMultiprocessor,
};
use cudarc::driver::{DriverError, result, sys::CUfunction_attribute};
use fornax_kernels::{ByValue, KernelError, KernelSource};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Kernel of a module, as its name without formatting: up to three joined parts, and the dtypes that end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kernel {
    module: &'static str,
    parts: [&'static str; 3],
    dtypes: [Option<DType>; 2],
}

impl Kernel {
    /// Kernel of that name in a module.
    pub(crate) const fn new(module: &'static str, name: &'static str) -> Kernel {
        Kernel::joined(module, [name, "", ""])
    }

    /// Kernel whose name consists of the parts.
    pub(crate) const fn joined(module: &'static str, parts: [&'static str; 3]) -> Kernel {
        Kernel { module, parts, dtypes: [None; 2] }
    }

    /// The kernel for a dtype, whose name is appended; at most two.
    pub(crate) fn of(mut self, dtype: DType) -> Kernel {
        let free = self.dtypes.iter_mut().find(|d| d.is_none());
        *free.expect("a kernel has at most two dtypes") = Some(dtype);
        self
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| f.write_str(part))?;
        self.dtypes.iter().flatten().try_for_each(|dtype| write!(f, "_{dtype}"))
    }
}

/// Launch configuration: grid, block, and bytes of dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaunchConfig {
    pub(crate) grid_dim: [u32; 3],
    pub(crate) block_dim: [u32; 3],
    pub(crate) shared_mem_bytes: u32,
    /// True for a grid-stride loop: a launch takes no more blocks than are resident on the device at once.
    pub(crate) is_grid_stride: bool,
}

impl LaunchConfig {
    /// Blocks of 256 threads for a grid-stride loop over `items`.
    pub(crate) fn grid_stride(items: usize) -> LaunchConfig {
        let blocks = items.div_ceil(256).clamp(1, i32::MAX as usize);
        LaunchConfig { is_grid_stride: true, ..LaunchConfig::linear(blocks, 256) }
    }

    /// One-dimensional grid and block. More blocks than a grid can have are an error at the launch.
    pub(crate) fn linear(blocks: usize, threads: usize) -> LaunchConfig {
        LaunchConfig {
            grid_dim: [grid_extent(blocks), 1, 1],
            block_dim: [threads as u32, 1, 1],
            shared_mem_bytes: 0,
            is_grid_stride: false,
        }
    }
}

/// Number of blocks along an axis of a grid. A number that does not fit becomes one that every device rejects at the launch.
pub(crate) fn grid_extent(blocks: usize) -> u32 {
    u32::try_from(blocks).unwrap_or(u32::MAX)
}

/// Kernel argument, as the bytes that are passed.
#[derive(Clone, Copy)]
pub(crate) struct KernelArg<'a>(ArgBytes<'a>);

#[derive(Clone, Copy)]
enum ArgBytes<'a> {
    Four([u8; 4]),
    Eight([u8; 8]),
    Struct(&'a [u8]),
    /// Value that exceeds its 32-bit parameter: the launch returns an error that names it.
    TooLarge(i128),
}

/// Extent as a 32-bit field of a struct; an argument that is an extent itself is [`int`].
pub(crate) fn to_i32(value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| {
        CudaError::new(format!("an extent of {value} is too large for CUDA kernels: the maximum is 2^31 - 1"))
    })
}

/// Extents as 32-bit fields of a struct.
pub(crate) fn to_i32s<const N: usize>(values: [usize; N]) -> Result<[i32; N]> {
    let mut checked = [0; N];
    for (to, value) in checked.iter_mut().zip(values) {
        *to = to_i32(value)?;
    }
    Ok(checked)
}

/// Extent that a kernel takes as a 32-bit `int`. The launch returns an error if it does not fit.
pub(crate) fn int(extent: usize) -> KernelArg<'static> {
    i32::try_from(extent).map_or(KernelArg(ArgBytes::TooLarge(extent as i128)), KernelArg::from)
}

impl<'a> KernelArg<'a> {
    /// Struct of [`fornax_kernels::arguments`], or another value of the parameter's type.
    pub(crate) fn by_value<T: ByValue>(value: &'a T) -> KernelArg<'a> {
        KernelArg(ArgBytes::Struct(value.bytes()))
    }

    /// Pointer, null for `None`.
    pub(crate) fn optional(slice: Option<DeviceSlice>) -> KernelArg<'static> {
        KernelArg(ArgBytes::Eight(slice.map_or(0, |s| s.pointer).to_ne_bytes()))
    }

    fn too_large(&self) -> Option<i128> {
        if let ArgBytes::TooLarge(value) = self.0 { Some(value) } else { None }
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            ArgBytes::Four(b) => b,
            ArgBytes::Eight(b) => b,
            ArgBytes::Struct(b) => b,
            ArgBytes::TooLarge(_) => &[],
        }
    }
}

impl<'a, T: ByValue> From<&'a T> for KernelArg<'a> {
    fn from(value: &'a T) -> Self {
        KernelArg::by_value(value)
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
impl From<i64> for KernelArg<'static> {
    fn from(value: i64) -> Self {
        KernelArg(ArgBytes::Eight(value.to_ne_bytes()))
    }
}
/// Number of elements, `long long` in a kernel.
impl From<usize> for KernelArg<'static> {
    fn from(value: usize) -> Self {
        KernelArg(ArgBytes::Eight((value as i64).to_ne_bytes()))
    }
}

/// Arguments of a launch, in the kernel's order: slices, numbers (`usize` becomes `long long`, [`int`]`(usize)` a checked 32-bit `int`),
/// references to structs, [`KernelArg`]s.
macro_rules! args {
    ($($value:expr),* $(,)?) => {
        &[$($crate::cuda::KernelArg::from($value)),*]
    };
}
pub(crate) use args;

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

/// Threads per block for which occupancy is queried: those of all kernels with a grid-stride loop.
pub(crate) const OCCUPANCY_THREADS: u32 = 256;

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
