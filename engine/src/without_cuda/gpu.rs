//! The device that does not exist.
use super::cublaslt::CublasLt;
use super::cudnn::{ConvEngineOptions, Cudnn};
use super::{
    CudaError, DeviceBuffer, DeviceSlice, GpuInfo, Kernel, KernelArg, LaunchConfig, LibraryError, REASON,
    Result, WorkspaceAllocator,
};
use crate::{DType, Device};
use fornax_kernels::KernelSource;
use std::sync::Arc;

/// A type without values, in place of a CUDA device.
pub(crate) enum Gpu {}

/// Access to a device.
pub(crate) struct StreamAccess;

/// Methods of the device in `cuda`, with their signatures.
macro_rules! absent {
    ($($name:ident ($receiver:ty $(, $argument:ident: $type:ty)*) -> $result:ty;)*) => {
        impl Gpu {
            $(pub(crate) fn $name(self: $receiver $(, $argument: $type)*) -> $result {
                $(let _ = $argument;)*
                self.never()
            })*
        }
    };
}

absent! {
    ordinal(&Self) -> usize;
    device(&Self) -> Device;
    info(&Self) -> &GpuInfo;
    tickets(&Self) -> u64;
    bind(&Self) -> Result<StreamAccess>;
    is_capturing(&Self) -> bool;
    total_memory(&Self) -> usize;
    synchronize(&Self) -> Result<()>;
    conv_options(&Self) -> ConvEngineOptions;
    cublaslt(&Self) -> std::result::Result<&CublasLt, LibraryError>;
    cudnn(&Self) -> std::result::Result<&Cudnn, LibraryError>;
    allocate(&Arc<Self>, bytes: usize) -> Result<DeviceBuffer>;
    empty(&Arc<Self>, len: usize, dtype: DType) -> Result<DeviceBuffer>;
    free_block(&Self, pointer: u64) -> ();
    zero(&Self, to: DeviceSlice) -> Result<()>;
    copy(&Self, from: DeviceSlice, to: DeviceSlice) -> Result<()>;
    upload(&Self, from: &[u8], to: DeviceSlice) -> Result<()>;
    download(&Self, from: DeviceSlice, to: &mut [u8]) -> Result<()>;
    constant_table(&Arc<Self>, words: &[u32]) -> Result<Arc<DeviceBuffer>>;
    launch(&Self, kernel: Kernel, grid: LaunchConfig, args: &[KernelArg]) -> Result<()>;
    resident_blocks(&Self, kernel: Kernel) -> Result<usize>;
    launch_generated(&Self, source: &KernelSource, grid: LaunchConfig, args: &[KernelArg]) -> Result<()>;
    launch_text(
        &Self, key: &str, name: &str, source: (&str, &str), grid: LaunchConfig, args: &[KernelArg]
    ) -> Result<()>;
    launch_image(
        &Self, key: &str, name: &str, image: &[u8], grid: LaunchConfig, args: &[KernelArg]
    ) -> Result<()>;
}

impl Gpu {
    /// An error: there is no device.
    pub(crate) fn get(_: usize) -> Result<Arc<Gpu>> {
        Err(CudaError::new(REASON))
    }

    pub(crate) fn stream(&self) {
        self.never()
    }

    /// The proof that no value calls a method.
    fn never(&self) -> ! {
        match *self {}
    }

    pub(crate) fn with_workspace(
        self: &Arc<Gpu>,
        _: &str,
        _: impl FnOnce(&mut WorkspaceAllocator) -> std::result::Result<(), LibraryError>,
    ) -> std::result::Result<(), LibraryError> {
        self.never()
    }
}
