//! Device memory, allocated and freed in stream order from the driver's memory pool.
use super::{CudaError, Gpu, Result};
use crate::DType;
use crate::cpu::memory::MemoryStats;
use cudarc::driver::{result, sys::CUdeviceptr};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Owned block of device memory. Dropping it queues the free after the work that uses it.
pub(crate) struct DeviceBuffer {
    gpu: Arc<Gpu>,
    pointer: CUdeviceptr,
    bytes: usize,
}

/// Borrowed elements in device memory: pointer, length and dtype.
#[derive(Clone, Copy)]
pub(crate) struct DeviceSlice<'a> {
    pub(crate) pointer: CUdeviceptr,
    /// Number of elements.
    pub(crate) len: usize,
    pub(crate) dtype: DType,
    buffer: PhantomData<&'a DeviceBuffer>,
}

/// Allocation counters of one device.
#[derive(Default)]
pub(super) struct MemoryCounters {
    in_use: AtomicUsize,
    peak: AtomicUsize,
    allocations: AtomicUsize,
}

impl MemoryCounters {
    pub(super) fn stats(&self) -> MemoryStats {
        MemoryStats {
            in_use: self.in_use.load(Relaxed),
            peak_in_use: self.peak.load(Relaxed),
            reserved: self.in_use.load(Relaxed),
            system_allocations: self.allocations.load(Relaxed),
        }
    }
}

impl Gpu {
    /// Allocates at least `bytes` of uninitialised memory, for work queued from now on.
    pub(crate) fn allocate(self: &Arc<Gpu>, bytes: usize) -> Result<DeviceBuffer> {
        let _access = self.bind()?;
        // SAFETY: the stream lives as long as the device. The block is uninitialised, and callers write before they read.
        let pointer = unsafe { result::malloc_async(self.stream(), bytes.max(1)) }
            .map_err(|e| CudaError::from_allocation(bytes, e))?;
        let in_use = self.counters.in_use.fetch_add(bytes, Relaxed) + bytes;
        self.counters.peak.fetch_max(in_use, Relaxed);
        self.counters.allocations.fetch_add(1, Relaxed);
        Ok(DeviceBuffer { gpu: self.clone(), pointer, bytes })
    }

    /// Allocates uninitialised memory for `len` elements.
    pub(crate) fn empty(self: &Arc<Gpu>, len: usize, dtype: DType) -> Result<DeviceBuffer> {
        self.allocate(len * dtype.size())
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

impl DeviceBuffer {
    /// Device of the memory.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Slice of `len` elements, starting at element `start`.
    pub(crate) fn slice(&self, start: usize, len: usize, dtype: DType) -> DeviceSlice<'_> {
        assert!((start + len) * dtype.size() <= self.bytes, "the slice ends beyond its block");
        DeviceSlice { pointer: self.pointer + (start * dtype.size()) as u64, len, dtype, buffer: PhantomData }
    }

    /// The whole block as elements of `dtype`.
    pub(crate) fn as_slice(&self, dtype: DType) -> DeviceSlice<'_> {
        self.slice(0, self.bytes / dtype.size(), dtype)
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        self.gpu.counters.in_use.fetch_sub(self.bytes, Relaxed);
        // A failed device has lost its memory already, and drop cannot return an error.
        if let Ok(_access) = self.gpu.bind() {
            // SAFETY: the block is from this stream's pool and is freed once, after the work queued before.
            let _ = unsafe { result::free_async(self.pointer, self.gpu.stream()) };
        }
    }
}

impl DeviceSlice<'_> {
    /// Size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.len * self.dtype.size()
    }

    /// Slice of `len` elements, starting at element `start`.
    pub(crate) fn subslice(&self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.len, "the subslice ends beyond its slice");
        DeviceSlice { pointer: self.pointer + (start * self.dtype.size()) as u64, len, ..*self }
    }
}
