//! Device memory: allocation, fills and copies.
pub(crate) mod allocator;
pub(crate) mod arena;
pub(crate) mod async_copy;
pub(crate) mod constants;
pub(crate) mod copy;
pub(crate) mod pinned;
pub(crate) mod slice;
pub(crate) mod staging;

use crate::cuda::{CudaError, DeviceBuffer, DeviceSlice, Gpu, Result};
use crate::{DType, Device, Tensor};
use cudarc::driver::result;
use cudarc::driver::sys::{CUdeviceptr, CUstream};
use std::sync::Arc;

/// Address of the first element of a tensor on a CUDA device, for work that is queued without the engine; `None` on the CPU.
pub fn device_pointer(tensor: &Tensor) -> Option<CUdeviceptr> {
    (tensor.device() != Device::Cpu).then(|| tensor.device_view().slice().pointer)
}

/// Marks the memory of a tensor as used by work on another stream than the engine's, like PyTorch's `Tensor.record_stream`: once no
/// tensor shares the memory, it is reused only after the work that the stream has queued by then. No effect on the CPU.
///
/// This does not order the streams: the caller makes the other stream wait for the engine's work that precedes its own.
///
/// # Safety
/// The stream belongs to the tensor's device and outlives all tensors that share the memory.
pub unsafe fn record_stream(tensor: &Tensor, stream: CUstream) {
    if tensor.device() != Device::Cpu {
        let view = tensor.device_view();
        view.gpu().record_stream(view.buffer().pointer(), stream);
    }
}

impl Gpu {
    /// Allocates at least `bytes` of uninitialised memory, for work queued from now on.
    pub(crate) fn allocate(self: &Arc<Gpu>, bytes: usize) -> Result<DeviceBuffer> {
        Ok(DeviceBuffer::new(self.clone(), self.allocate_block(bytes)?, bytes))
    }

    /// Allocates uninitialised memory for `len` elements.
    pub(crate) fn empty(self: &Arc<Gpu>, len: usize, dtype: DType) -> Result<DeviceBuffer> {
        self.allocate(dtype.bytes(len))
    }

    /// Queues a fill with zero bytes.
    pub(crate) fn zero(&self, to: DeviceSlice) -> Result<()> {
        let _access = self.bind()?;
        // SAFETY: a slice is inside a live block of this device.
        unsafe { result::memset_d8_async(to.pointer, 0, to.bytes(), self.stream()) }
            .map_err(|e| CudaError::from_driver("filling memory", e))
    }

    /// Queues a copy between slices of equal size on this device.
    pub(crate) fn copy(&self, from: DeviceSlice, to: DeviceSlice) -> Result<()> {
        assert_eq!(from.bytes(), to.bytes(), "source and destination differ in size");
        let _access = self.bind()?;
        // SAFETY: both slices are inside live blocks of this device.
        unsafe { result::memcpy_dtod_async(to.pointer, from.pointer, from.bytes(), self.stream()) }
            .map_err(|e| CudaError::from_driver("copying on the device", e))
    }
}
