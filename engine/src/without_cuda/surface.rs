//! The public functions and types of `cuda`.
use super::cudnn::{ConvEngineOptions, ConvPlanRecord};
use super::device::absent;
use super::{DeviceInterval, GpuInfo, KernelTime, LibraryInfo, REASON};
use crate::host_memory::MemoryStats;
use crate::{DType, Device, Element, IntoShape, Result, Shape, Tensor};
use fornax_kernels::BackgroundCompilation;

pub fn devices() -> std::result::Result<Vec<GpuInfo>, String> {
    Err(REASON.into())
}

pub fn libraries() -> Vec<LibraryInfo> {
    vec![]
}

pub fn memory_stats(_: Device) -> Option<MemoryStats> {
    None
}

pub fn launch_count(_: Device) -> u64 {
    0
}

pub fn compile_in_background(_: &Device, _: Option<DType>) -> Option<BackgroundCompilation> {
    None
}

pub fn set_conv_engine_options(device: &Device, _: ConvEngineOptions) -> Result<()> {
    Err(absent("set_conv_engine_options", *device))
}

pub fn conv_plan_record(device: &Device) -> Result<Option<ConvPlanRecord>> {
    Err(absent("conv_plan_record", *device))
}

pub fn restore_conv_plans(device: &Device, _: &ConvPlanRecord) -> Result<bool> {
    Err(absent("restore_conv_plans", *device))
}

pub fn use_stored_conv_plans(device: &Device) -> Result<()> {
    Err(absent("use_stored_conv_plans", *device))
}

pub fn pinned_tensor(_: impl IntoShape, _: DType, device: &Device) -> Result<Tensor> {
    Err(absent("pinned_tensor", *device))
}

/// An upload to the CPU, which is done at once.
#[must_use = "the tensor is used after the upload"]
pub struct PendingUpload(Tensor);

pub fn upload(source: &Tensor, device: &Device) -> Result<PendingUpload> {
    source.to_device(device).map(PendingUpload)
}

impl PendingUpload {
    pub fn into_tensor(self) -> Result<Tensor> {
        Ok(self.0)
    }
}

/// Elements that were read.
#[must_use = "the elements are read after the wait"]
pub struct PendingRead<T> {
    elements: Vec<T>,
    shape: Shape,
}

impl Tensor {
    pub fn read_later<T: Element>(&self) -> Result<PendingRead<T>> {
        Ok(PendingRead { elements: self.to_vec::<T>()?, shape: *self.shape() })
    }
}

impl<T: Element> PendingRead<T> {
    pub fn wait(self) -> Result<Vec<T>> {
        Ok(self.elements)
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }
}

/// A type without values.
pub enum CudaGraph {}

impl CudaGraph {
    pub fn capture(device: &Device, _: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        Err(absent("cuda_graph", *device))
    }

    pub fn replay(&self) -> Result<()> {
        match *self {}
    }
}

/// A type without values.
pub enum KernelProfile {}

impl KernelProfile {
    pub fn start(device: &Device) -> Result<KernelProfile> {
        Err(absent("profile", *device))
    }

    pub fn finish(self) -> Result<Vec<KernelTime>> {
        match self {}
    }

    pub fn finish_timeline(self) -> Result<Vec<DeviceInterval>> {
        match self {}
    }
}

/// A type without values.
pub enum ProfilerRange {}

impl ProfilerRange {
    pub fn start(device: &Device) -> Result<ProfilerRange> {
        Err(absent("profile", *device))
    }
}
