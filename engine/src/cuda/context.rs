//! GPU: its CUDA context, compute stream, loaded kernels and properties.
use super::cublaslt::CublasLt;
use super::cudnn::{ConvEngineOptions, ConvPlanChoice, ConvPlanRecord, Cudnn, GpuKind};
use super::launch::channels::TICKETS;
use super::memory::allocator::DeviceMemory;
use super::memory::constants::ConstantTables;
use super::memory::pinned::PinnedPool;
use super::memory::staging::StagingPool;
use super::stream::capture_lock::{CaptureLock, StreamAccess};
use super::stream::communication::Communication;
use super::stream::profile::KernelProfiler;
use super::{
    CudaError, DeviceBuffer, GpuInfo, LibraryError, Result, WorkspaceAllocator, launch::KernelModules,
    library::versions,
};
use crate::host_memory::MemoryStats;
use crate::{DType, Device};
use cudarc::driver::sys::{CUdevice_attribute, CUdeviceptr, CUstream};
use cudarc::driver::{CudaContext, CudaStream, result};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// CUDA device with its context, compute stream and loaded kernels; one per ordinal and process.
pub(crate) struct Gpu {
    ordinal: usize,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// Stream of uploads that run beside the compute stream.
    pub(super) copy_stream: OnceLock<Arc<CudaStream>>,
    pub(super) communication: Communication,
    info: GpuInfo,
    pub(super) modules: KernelModules,
    pub(super) staging: StagingPool,
    pub(super) pinned: PinnedPool,
    pub(super) memory: DeviceMemory,
    pub(super) capture_lock: CaptureLock,
    pub(super) profiler: KernelProfiler,
    /// Number of launches of Fornax's kernels.
    pub(super) launched: AtomicU64,
    /// Counters of blocks for kernels that merge partial results in their last block, two times `channels::TICKETS` of u32. They are 0 between
    /// launches, which follow each other on one stream.
    tickets: CUdeviceptr,
    /// Constraints on cuDNN's engines, and the choice between them.
    conv_options: Mutex<ConvEngineOptions>,
    pub(super) constant_tables: ConstantTables,
    cublaslt: OnceLock<std::result::Result<CublasLt, LibraryError>>,
    cudnn: OnceLock<std::result::Result<Cudnn, LibraryError>>,
}

/// Lists the CUDA devices. The error is the reason why there are none, with a remedy.
pub fn devices() -> std::result::Result<Vec<GpuInfo>, String> {
    let count = device_count().map_err(|e| e.why)?;
    (0..count).map(|i| query_info(i).map_err(|e| e.why)).collect()
}

/// Memory statistics of a GPU; `None` for the CPU, and for a device that was not used yet.
pub fn memory_stats(device: Device) -> Option<MemoryStats> {
    let Device::Cuda(ordinal) = device else { return None };
    Some(gpus().get(&ordinal)?.memory.stats())
}

/// Number of Fornax's kernels that were launched or captured on a GPU so far; 0 for the CPU.
pub fn launch_count(device: Device) -> u64 {
    let Device::Cuda(ordinal) = device else { return 0 };
    gpus().get(&ordinal).map_or(0, |gpu| gpu.launched.load(Ordering::Relaxed))
}

/// Sets which cuDNN engines compute convolutions on a CUDA device, and how one is chosen. The default is deterministic engines, no TF32, and
/// [`ConvPlanChoice::Heuristic`]. Shapes that were used before with the same options keep their plans.
///
/// [`ConvPlanChoice::Benchmark`], like PyTorch's `cudnn.benchmark`, times several plans at the first use of a shape and waits for the
/// device. The fastest one, and so the last bits of results, can differ between processes, unless [`restore_conv_plans`] or the cache on
/// disk repeats the choice. With either choice, the first use of a shape must not be in a [`super::CudaGraph`] capture: that is an error.
pub fn set_conv_engine_options(device: &Device, options: ConvEngineOptions) -> crate::Result<()> {
    let gpu = gpu_with_plans("set_conv_engine_options", device)?;
    *gpu.conv_options.lock().unwrap_or_else(|e| e.into_inner()) = options;
    Ok(())
}

/// The convolution plans of a CUDA device that were chosen by timing so far; `None` if it has not used cuDNN yet.
pub fn conv_plan_record(device: &Device) -> crate::Result<Option<ConvPlanRecord>> {
    let gpu = gpu_with_plans("conv_plan_record", device)?;
    Ok(gpu.cudnn.get().and_then(|opened| opened.as_ref().ok()).map(Cudnn::plan_record))
}

/// Restores convolution plans; [`ConvPlanChoice::Benchmark`] then uses these, also for shapes that were used before with others. A captured
/// graph must not contain such a shape. Returns false, without effect, if the plans are of another GPU or version of cuDNN.
pub fn restore_conv_plans(device: &Device, record: &ConvPlanRecord) -> crate::Result<bool> {
    let gpu = gpu_with_plans("restore_conv_plans", device)?;
    let restored = gpu.bind().and_then(|_access| Ok(gpu.cudnn()?.restore_plans(record)?));
    restored.map_err(|error| error.with_op_context("restore_conv_plans", *device, &[]))
}

/// Makes a CUDA device use the convolution plans that timing has chosen so far, or that were restored, and those of cuDNN's heuristics for
/// other shapes: nothing more is timed ([`ConvPlanChoice::Stored`]).
pub fn use_stored_conv_plans(device: &Device) -> crate::Result<()> {
    let gpu = gpu_with_plans("use_stored_conv_plans", device)?;
    gpu.conv_options.lock().unwrap_or_else(|e| e.into_inner()).choice = ConvPlanChoice::Stored;
    Ok(())
}

fn gpu_with_plans(op: &'static str, device: &Device) -> crate::Result<Arc<Gpu>> {
    let in_op = |error: CudaError| error.with_op_context(op, *device, &[]);
    let Device::Cuda(ordinal) = *device else {
        return Err(in_op(CudaError::new("only convolutions on a CUDA device have plans")));
    };
    Gpu::get(ordinal).map_err(in_op)
}

static GPUS: Mutex<BTreeMap<usize, Arc<Gpu>>> = Mutex::new(BTreeMap::new());

fn gpus() -> std::sync::MutexGuard<'static, BTreeMap<usize, Arc<Gpu>>> {
    GPUS.lock().unwrap_or_else(|e| e.into_inner())
}

impl Gpu {
    /// Returns the device of that ordinal; opens it at its first use.
    pub(crate) fn get(ordinal: usize) -> Result<Arc<Gpu>> {
        if let Some(gpu) = gpus().get(&ordinal) {
            return Ok(gpu.clone());
        }
        let count = device_count()?;
        if ordinal >= count {
            return Err(CudaError::new(format!(
                "there is no cuda:{ordinal}: this machine has {count} CUDA device(s), numbered from 0"
            )));
        }
        let info = query_info(ordinal)?;
        versions::check(ordinal, &info)?;
        let context =
            CudaContext::new(ordinal).map_err(|e| CudaError::from_driver("opening the device", e))?;
        let stream = context.new_stream().map_err(|e| CudaError::from_driver("creating a stream", e))?;
        let tickets = allocate_tickets(stream.cu_stream())?;
        let gpu = Gpu {
            ordinal,
            context,
            stream,
            copy_stream: OnceLock::new(),
            communication: Communication::default(),
            info,
            modules: KernelModules::default(),
            staging: StagingPool::default(),
            pinned: PinnedPool::default(),
            memory: DeviceMemory::default(),
            capture_lock: CaptureLock::default(),
            profiler: KernelProfiler::default(),
            launched: AtomicU64::new(0),
            tickets,
            constant_tables: ConstantTables::default(),
            conv_options: Mutex::new(ConvEngineOptions {
                tf32: false,
                deterministic: true,
                choice: ConvPlanChoice::Heuristic,
            }),
            cublaslt: OnceLock::new(),
            cudnn: OnceLock::new(),
        };
        // If two threads opened it at once, the first one's is kept.
        Ok(gpus().entry(ordinal).or_insert(Arc::new(gpu)).clone())
    }

    /// Device ordinal.
    pub(crate) fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// The [`Device`] of this GPU.
    pub(crate) fn device(&self) -> Device {
        Device::Cuda(self.ordinal)
    }

    /// Device properties.
    pub(crate) fn info(&self) -> &GpuInfo {
        &self.info
    }

    /// Address of the [tickets](Gpu::tickets).
    pub(crate) fn tickets(&self) -> CUdeviceptr {
        self.tickets
    }

    /// Compute stream.
    pub(crate) fn stream(&self) -> CUstream {
        self.stream.cu_stream()
    }

    /// Creates another stream.
    pub(super) fn new_stream(&self) -> Result<Arc<CudaStream>> {
        self.context.new_stream().map_err(|e| CudaError::from_driver("creating a stream", e))
    }

    /// Waits while another thread captures a graph, and makes the context current on this thread. Required for every raw driver call.
    pub(crate) fn bind(&self) -> Result<StreamAccess<'_>> {
        let access = self.capture_lock.enter();
        self.context.bind_to_thread().map_err(|e| CudaError::from_driver("binding the context", e))?;
        Ok(access)
    }

    /// Current options of convolutions.
    pub(crate) fn conv_options(&self) -> ConvEngineOptions {
        *self.conv_options.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// cuBLASLt on this device, opened at its first use.
    pub(crate) fn cublaslt(&self) -> std::result::Result<&CublasLt, LibraryError> {
        self.cublaslt.get_or_init(CublasLt::new).as_ref().map_err(Clone::clone)
    }

    /// cuDNN on this device's stream, opened at its first use.
    pub(crate) fn cudnn(&self) -> std::result::Result<&Cudnn, LibraryError> {
        let GpuInfo { name, capability, multiprocessors, .. } = &self.info;
        let kind = GpuKind { capability: *capability, multiprocessors: *multiprocessors };
        // SAFETY: the stream lives as long as this value, and callers have bound its context.
        let open = || unsafe { Cudnn::new(self.stream(), name, kind) };
        self.cudnn.get_or_init(open).as_ref().map_err(Clone::clone)
    }

    /// Runs a library call, which has a name in profiles, with a workspace allocator. Workspaces are released in stream order after the call.
    pub(crate) fn with_workspace(
        self: &Arc<Gpu>,
        name: &str,
        call: impl FnOnce(&mut WorkspaceAllocator) -> std::result::Result<(), LibraryError>,
    ) -> std::result::Result<(), LibraryError> {
        let mut workspaces: Vec<DeviceBuffer> = vec![];
        let mut workspace = |bytes| {
            let buffer = self.allocate(bytes).map_err(|e| match e.bytes {
                Some(bytes) => LibraryError::Workspace { bytes, why: e.why },
                None => LibraryError::Driver { why: e.why },
            })?;
            let pointer = buffer.as_slice(DType::U8).pointer;
            workspaces.push(buffer);
            Ok(pointer)
        };
        self.profiled(&name, || call(&mut workspace))
    }

    /// Waits until all queued work is done, and returns its errors.
    pub(crate) fn synchronize(&self) -> Result<()> {
        let _access = self.bind()?;
        self.stream.synchronize().map_err(|e| CudaError::from_driver("waiting for queued work", e))
    }
}

fn device_count() -> Result<usize> {
    // SAFETY: loads the driver library, whose initialisers are the driver's own.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(CudaError::new(
            "no CUDA driver was found (libcuda.so.1): install NVIDIA's driver, or use --device cpu or --device emulated",
        ));
    }
    result::init().map_err(|e| CudaError::from_driver("initialising the CUDA driver", e))?;
    let count = result::device::get_count().map_err(|e| CudaError::from_driver("counting devices", e))?;
    if count == 0 {
        return Err(CudaError::new("the CUDA driver finds no device: check the output of nvidia-smi"));
    }
    Ok(count as usize)
}

fn query_info(ordinal: usize) -> Result<GpuInfo> {
    let failed = |e| CudaError::from_driver("querying the device's properties", e);
    let device = result::device::get(ordinal as i32).map_err(failed)?;
    // SAFETY: the driver has just returned the device.
    let attribute = |a| unsafe { result::device::get_attribute(device, a) }.map(|v| v as u32).map_err(failed);
    Ok(GpuInfo {
        name: result::device::get_name(device).map_err(failed)?,
        capability: (
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }.map_err(failed)?,
    })
}

/// Device memory for the tickets, filled with zeros by `stream`.
fn allocate_tickets(stream: CUstream) -> Result<CUdeviceptr> {
    let (bytes, failed) = (2 * 4 * TICKETS, |e| CudaError::from_driver("allocating tickets", e));
    // SAFETY: creating the stream has made its context current; the memory is this device's, and never freed.
    unsafe {
        let tickets = result::malloc_sync(bytes).map_err(failed)?;
        result::memset_d8_async(tickets, 0, bytes, stream).map_err(failed)?;
        Ok(tickets)
    }
}
