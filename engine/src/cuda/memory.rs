//! Device memory: blocks that the driver's pool hands out and takes back in stream order.
use super::{Failure, Gpu, Result};
use crate::DType;
use crate::cpu::memory::MemoryStats;
use cudarc::driver::{result, sys::CUdeviceptr};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// An owned block of device memory. Dropping it queues its release behind the work that uses it.
pub(crate) struct Buffer {
    gpu: Arc<Gpu>,
    pointer: CUdeviceptr,
    bytes: usize,
}

/// Elements in device memory, as launchers take them: a place, a length and a dtype.
#[derive(Clone, Copy)]
pub(crate) struct Slice<'a> {
    pub(crate) pointer: CUdeviceptr,
    /// Elements.
    pub(crate) len: usize,
    pub(crate) dtype: DType,
    buffer: PhantomData<&'a Buffer>,
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
    pub(crate) fn allocate(self: &Arc<Gpu>, bytes: usize) -> Result<Buffer> {
        let _turn = self.bind()?;
        // SAFETY: the stream lives as long as the device. What the block holds is arbitrary, and callers write before they read.
        let pointer = unsafe { result::malloc_async(self.stream(), bytes.max(1)) }
            .map_err(|e| Failure::allocation(bytes, e))?;
        let in_use = self.counters.in_use.fetch_add(bytes, Relaxed) + bytes;
        self.counters.peak.fetch_max(in_use, Relaxed);
        self.counters.allocations.fetch_add(1, Relaxed);
        Ok(Buffer { gpu: self.clone(), pointer, bytes })
    }

    /// Scratch for `len` elements.
    pub(crate) fn scratch(self: &Arc<Gpu>, len: usize, dtype: DType) -> Result<Buffer> {
        self.allocate(len * dtype.size())
    }

    /// Queues a fill with bytes of zero.
    pub(crate) fn zero(&self, to: Slice) -> Result<()> {
        let _turn = self.bind()?;
        // SAFETY: a slice lies inside a live block of this device.
        unsafe { result::memset_d8_async(to.pointer, 0, to.bytes(), self.stream()) }
            .map_err(|e| Failure::driver("filling memory", e))
    }

    /// Queues a copy between slices of one length and dtype on this device.
    pub(crate) fn copy(&self, from: Slice, to: Slice) -> Result<()> {
        assert_eq!(from.bytes(), to.bytes(), "a copy keeps its length");
        let _turn = self.bind()?;
        // SAFETY: both slices lie inside live blocks of this device.
        unsafe { result::memcpy_dtod_async(to.pointer, from.pointer, from.bytes(), self.stream()) }
            .map_err(|e| Failure::driver("copying on the device", e))
    }
}

impl Buffer {
    /// The device that holds it.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// `len` elements from element `start` on.
    pub(crate) fn slice(&self, start: usize, len: usize, dtype: DType) -> Slice<'_> {
        assert!((start + len) * dtype.size() <= self.bytes, "a slice lies inside its block");
        Slice { pointer: self.pointer + (start * dtype.size()) as u64, len, dtype, buffer: PhantomData }
    }

    /// All of it, as elements of `dtype`.
    pub(crate) fn whole(&self, dtype: DType) -> Slice<'_> {
        self.slice(0, self.bytes / dtype.size(), dtype)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.gpu.counters.in_use.fetch_sub(self.bytes, Relaxed);
        // A device that failed has lost its memory already; there is nobody to tell here.
        if let Ok(_turn) = self.gpu.bind() {
            // SAFETY: the block came from this stream's pool and is freed once; work queued before still has it.
            let _ = unsafe { result::free_async(self.pointer, self.gpu.stream()) };
        }
    }
}

impl Slice<'_> {
    /// Its size.
    pub(crate) fn bytes(&self) -> usize {
        self.len * self.dtype.size()
    }

    /// `len` elements from element `start` on.
    pub(crate) fn part(&self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.len, "a part lies inside its slice");
        Slice { pointer: self.pointer + (start * self.dtype.size()) as u64, len, ..*self }
    }
}
