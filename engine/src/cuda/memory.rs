//! Device memory: blocks that the driver's pool hands out and takes back in stream order.
use super::{CudaError, Gpu, Result};
use crate::DType;
use crate::cpu::memory::MemoryStats;
use cudarc::driver::{result, sys::CUdeviceptr};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// An owned block of device memory. Dropping it queues its release behind the work that uses it.
pub(crate) struct DeviceBuffer {
    gpu: Arc<Gpu>,
    pointer: CUdeviceptr,
    bytes: usize,
}

/// Elements in device memory, as launchers take them: a place, a length and a dtype.
#[derive(Clone, Copy)]
pub(crate) struct DeviceSlice<'a> {
    pub(crate) pointer: CUdeviceptr,
    /// Elements.
    pub(crate) len: usize,
    pub(crate) dtype: DType,
    buffer: PhantomData<&'a DeviceBuffer>,
}

/// Bytes that tensors and scratch hold on one device.
#[derive(Default)]
pub(super) struct Counters {
    in_use: AtomicUsize,
    peak: AtomicUsize,
    allocations: AtomicUsize,
}

impl Counters {
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
    /// A block of at least `bytes` of arbitrary content, for work queued from now on.
    pub(crate) fn allocate(self: &Arc<Gpu>, bytes: usize) -> Result<DeviceBuffer> {
        let _turn = self.bind()?;
        // SAFETY: the stream lives as long as the device. What the block holds is arbitrary, and callers write before they read.
        let pointer = unsafe { result::malloc_async(self.stream(), bytes.max(1)) }
            .map_err(|e| CudaError::allocation(bytes, e))?;
        let in_use = self.counters.in_use.fetch_add(bytes, Relaxed) + bytes;
        self.counters.peak.fetch_max(in_use, Relaxed);
        self.counters.allocations.fetch_add(1, Relaxed);
        Ok(DeviceBuffer { gpu: self.clone(), pointer, bytes })
    }

    /// Scratch for `len` elements.
    pub(crate) fn empty(self: &Arc<Gpu>, len: usize, dtype: DType) -> Result<DeviceBuffer> {
        self.allocate(len * dtype.size())
    }

    /// Queues a fill with bytes of zero.
    pub(crate) fn zero(&self, to: DeviceSlice) -> Result<()> {
        let _turn = self.bind()?;
        // SAFETY: a slice lies inside a live block of this device.
        unsafe { result::memset_d8_async(to.pointer, 0, to.bytes(), self.stream()) }
            .map_err(|e| CudaError::driver("filling memory", e))
    }

    /// Queues a copy between slices of one length and dtype on this device.
    pub(crate) fn copy(&self, from: DeviceSlice, to: DeviceSlice) -> Result<()> {
        assert_eq!(from.bytes(), to.bytes(), "a copy keeps its length");
        let _turn = self.bind()?;
        // SAFETY: both slices lie inside live blocks of this device.
        unsafe { result::memcpy_dtod_async(to.pointer, from.pointer, from.bytes(), self.stream()) }
            .map_err(|e| CudaError::driver("copying on the device", e))
    }
}

impl DeviceBuffer {
    /// The device that holds it.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// `len` elements from element `start` on.
    pub(crate) fn slice(&self, start: usize, len: usize, dtype: DType) -> DeviceSlice<'_> {
        assert!((start + len) * dtype.size() <= self.bytes, "a slice lies inside its block");
        DeviceSlice { pointer: self.pointer + (start * dtype.size()) as u64, len, dtype, buffer: PhantomData }
    }

    /// All of it, as elements of `dtype`.
    pub(crate) fn as_slice(&self, dtype: DType) -> DeviceSlice<'_> {
        self.slice(0, self.bytes / dtype.size(), dtype)
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        self.gpu.counters.in_use.fetch_sub(self.bytes, Relaxed);
        // A device that failed has lost its memory already; there is nobody to tell here.
        if let Ok(_turn) = self.gpu.bind() {
            // SAFETY: the block came from this stream's pool and is freed once; work queued before still has it.
            let _ = unsafe { result::free_async(self.pointer, self.gpu.stream()) };
        }
    }
}

impl DeviceSlice<'_> {
    /// Its size.
    pub(crate) fn bytes(&self) -> usize {
        self.len * self.dtype.size()
    }

    /// `len` elements from element `start` on.
    pub(crate) fn subslice(&self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.len, "a part lies inside its slice");
        DeviceSlice { pointer: self.pointer + (start * self.dtype.size()) as u64, len, ..*self }
    }
}
