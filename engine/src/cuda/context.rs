//! One GPU: its context, its stream, and what is known of it.
use super::cublaslt::CublasLt;
use super::cudnn::{ConvPlanChoice, Cudnn};
use super::memory::Counters;
use super::staging::Staging;
use super::turns::{Turn, Turns};
use super::{CudaError, DeviceBuffer, LibraryError, Result, Workspace, launch::Families};
use crate::cpu::memory::MemoryStats;
use crate::{DType, Device};
use cudarc::driver::sys::{CUdevice_attribute, CUmemPool_attribute, CUstream};
use cudarc::driver::{CudaContext, CudaStream, result};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// A device with its context, its compute stream and its loaded kernels; one for each ordinal and process.
pub(crate) struct Gpu {
    ordinal: usize,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    info: GpuInfo,
    pub(super) families: Families,
    pub(super) staging: Staging,
    pub(super) counters: Counters,
    pub(super) turns: Turns,
    /// Kernels of ours that were launched.
    pub(super) launched: AtomicU64,
    /// How convolutions that are met from now on are planned.
    plan_choice: Mutex<ConvPlanChoice>,
    blas: OnceLock<std::result::Result<CublasLt, LibraryError>>,
    dnn: OnceLock<std::result::Result<Cudnn, LibraryError>>,
}

/// What a driver says of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuInfo {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory: usize,
}

/// The devices that the driver knows; why there are none otherwise, in a sentence that says what to do.
pub fn devices() -> std::result::Result<Vec<GpuInfo>, String> {
    let count = device_count().map_err(|e| e.why)?;
    (0..count).map(|i| info(i).map_err(|e| e.why)).collect()
}

/// Memory that the engine holds on a GPU; `None` for a device that was not used yet, and for the CPU.
pub fn memory_stats(device: Device) -> Option<MemoryStats> {
    let Device::Cuda(ordinal) = device else { return None };
    Some(lock().get(&ordinal)?.counters.stats())
}

/// How many of the engine's own kernels were launched or recorded on a GPU so far; 0 for the CPU.
pub fn launch_count(device: Device) -> u64 {
    let Device::Cuda(ordinal) = device else { return 0 };
    lock().get(&ordinal).map_or(0, |gpu| gpu.launched.load(Ordering::Relaxed))
}

/// How a CUDA device's convolutions that are met from now on are planned; by heuristics unless said otherwise. Plans of shapes met
/// before under the same choice are kept.
///
/// [`PlanChoice::Timed`] runs several when a shape is first met, which takes some of their times and waits for the device. Each
/// gives the same bits every time, but which one wins, and so the last bits, can differ from one process to the next. A shape
/// that is first met while a [`super::Graph`] is recorded is an error, by either choice.
pub fn set_conv_plan_choice(device: &Device, choice: ConvPlanChoice) -> crate::Result<()> {
    let named = |failure: CudaError| failure.with_op_context("set_plan_choice", *device, &[]);
    let Device::Cuda(ordinal) = *device else {
        return Err(named(CudaError::new("only convolutions of a CUDA device are planned")));
    };
    let gpu = Gpu::get(ordinal).map_err(named)?;
    *gpu.plan_choice.lock().unwrap_or_else(|e| e.into_inner()) = choice;
    Ok(())
}

static GPUS: Mutex<BTreeMap<usize, Arc<Gpu>>> = Mutex::new(BTreeMap::new());

fn lock() -> std::sync::MutexGuard<'static, BTreeMap<usize, Arc<Gpu>>> {
    GPUS.lock().unwrap_or_else(|e| e.into_inner())
}

impl Gpu {
    /// The device of that ordinal, opened at its first use.
    pub(crate) fn get(ordinal: usize) -> Result<Arc<Gpu>> {
        if let Some(gpu) = lock().get(&ordinal) {
            return Ok(gpu.clone());
        }
        let count = device_count()?;
        if ordinal >= count {
            return Err(CudaError::new(format!(
                "there is no cuda:{ordinal}: this machine has {count} CUDA device(s), numbered from 0"
            )));
        }
        let context = CudaContext::new(ordinal).map_err(|e| CudaError::driver("opening the device", e))?;
        let stream = context.new_stream().map_err(|e| CudaError::driver("creating a stream", e))?;
        keep_pool(ordinal)?;
        let gpu = Gpu {
            ordinal,
            context,
            stream,
            info: info(ordinal)?,
            families: Families::default(),
            staging: Staging::default(),
            counters: Counters::default(),
            turns: Turns::default(),
            launched: AtomicU64::new(0),
            plan_choice: Mutex::default(),
            blas: OnceLock::new(),
            dnn: OnceLock::new(),
        };
        // Two threads may have opened it at once: the first one's stays.
        Ok(lock().entry(ordinal).or_insert(Arc::new(gpu)).clone())
    }

    /// Its number.
    pub(crate) fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// As a device of the engine.
    pub(crate) fn device(&self) -> Device {
        Device::Cuda(self.ordinal)
    }

    /// What the driver says of it.
    pub(crate) fn info(&self) -> &GpuInfo {
        &self.info
    }

    /// The compute stream, for library calls.
    pub(crate) fn stream(&self) -> CUstream {
        self.stream.cu_stream()
    }

    /// Makes its context this thread's, and waits while another thread records a graph; every raw driver call needs it.
    pub(crate) fn bind(&self) -> Result<Turn<'_>> {
        let turn = self.turns.take();
        self.context.bind_to_thread().map_err(|e| CudaError::driver("binding the context", e))?;
        Ok(turn)
    }

    /// How a convolution that is met now is planned.
    pub(super) fn plan_choice(&self) -> ConvPlanChoice {
        *self.plan_choice.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// cuBLASLt on this device, opened at its first use.
    pub(super) fn blas(&self) -> std::result::Result<&CublasLt, LibraryError> {
        self.blas.get_or_init(CublasLt::new).as_ref().map_err(Clone::clone)
    }

    /// cuDNN on this device's stream, opened at its first use.
    pub(super) fn dnn(&self) -> std::result::Result<&Cudnn, LibraryError> {
        // SAFETY: the stream is alive as long as this value, and callers have bound its context.
        self.dnn.get_or_init(|| unsafe { Cudnn::new(self.stream()) }).as_ref().map_err(Clone::clone)
    }

    /// Runs a library call with workspaces, each of which may be reused by what is queued after the call.
    pub(super) fn with_workspace(
        self: &Arc<Gpu>,
        call: impl FnOnce(&mut Workspace) -> std::result::Result<(), LibraryError>,
    ) -> std::result::Result<(), LibraryError> {
        let mut held: Vec<DeviceBuffer> = vec![];
        call(&mut |bytes| {
            let buffer = self.allocate(bytes).map_err(|e| LibraryError::Workspace { bytes, why: e.why })?;
            let pointer = buffer.as_slice(DType::U8).pointer;
            held.push(buffer);
            Ok(pointer)
        })
    }

    /// Gives memory that the pool keeps for later back to the driver, after the queued work.
    pub(super) fn trim_pool(&self) -> Result<()> {
        self.synchronize()?;
        let _turn = self.bind()?;
        let failed = |e| CudaError::driver("giving memory back", e);
        let device = result::device::get(self.ordinal as i32).map_err(failed)?;
        // SAFETY: the pool is the device's own.
        unsafe {
            let pool = result::device::get_default_mem_pool(device).map_err(failed)?;
            result::mem_pool::trim_to(pool, 0).map_err(failed)
        }
    }

    /// Waits until all queued work is done, and reports what failed in it.
    pub(crate) fn synchronize(&self) -> Result<()> {
        let _turn = self.bind()?;
        self.stream.synchronize().map_err(|e| CudaError::driver("waiting for queued work", e))
    }
}

fn device_count() -> Result<usize> {
    // SAFETY: loads the driver library, whose initialisers are the driver's own.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(CudaError::new(
            "no CUDA driver was found (libcuda.so.1): install NVIDIA's driver, or use --device cpu or --device emulated",
        ));
    }
    result::init().map_err(|e| CudaError::driver("starting the CUDA driver", e))?;
    let count = result::device::get_count().map_err(|e| CudaError::driver("counting devices", e))?;
    if count == 0 {
        return Err(CudaError::new("the CUDA driver finds no device: nvidia-smi shows what it sees"));
    }
    Ok(count as usize)
}

fn info(ordinal: usize) -> Result<GpuInfo> {
    let failed = |e| CudaError::driver("asking for the device's properties", e);
    let device = result::device::get(ordinal as i32).map_err(failed)?;
    // SAFETY: the device was just handed out by the driver.
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

/// By default the pool gives its memory back at each synchronisation; a training loop asks for the same blocks again.
fn keep_pool(ordinal: usize) -> Result<()> {
    let failed = |e| CudaError::driver("keeping the memory pool", e);
    let device = result::device::get(ordinal as i32).map_err(failed)?;
    let mut keep = u64::MAX;
    // SAFETY: the pool is the device's own, and the attribute takes a u64.
    unsafe {
        let pool = result::device::get_default_mem_pool(device).map_err(failed)?;
        let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut keep).cast()).map_err(failed)
    }
}
