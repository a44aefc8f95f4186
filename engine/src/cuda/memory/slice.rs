//! Device memory that is owned (a tensor's block) or borrowed (a slice of it).
use crate::DType;
use crate::cuda::Gpu;
use std::marker::PhantomData;
use std::sync::Arc;

/// Owned block of device memory. Dropping it frees it for work queued later.
pub(crate) struct DeviceBuffer {
    gpu: Arc<Gpu>,
    pointer: u64,
    bytes: usize,
}

/// Borrowed elements in device memory: pointer, length and dtype.
#[derive(Clone, Copy)]
pub(crate) struct DeviceSlice<'a> {
    pub(crate) pointer: u64,
    /// Number of elements.
    pub(crate) len: usize,
    pub(crate) dtype: DType,
    buffer: PhantomData<&'a DeviceBuffer>,
}

impl DeviceBuffer {
    /// A block of a device that this value frees.
    pub(in crate::cuda) fn new(gpu: Arc<Gpu>, pointer: u64, bytes: usize) -> DeviceBuffer {
        DeviceBuffer { gpu, pointer, bytes }
    }

    /// Address of the block.
    pub(in crate::cuda) fn pointer(&self) -> u64 {
        self.pointer
    }

    /// Device of the memory.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Slice of `len` elements, starting at element `start`.
    pub(crate) fn slice(&self, start: usize, len: usize, dtype: DType) -> DeviceSlice<'_> {
        let end = start.checked_add(len).map(|end| dtype.bytes(end));
        assert!(end.is_some_and(|end| end <= self.bytes), "the slice ends beyond its block");
        DeviceSlice { pointer: self.pointer + (start * dtype.size()) as u64, len, dtype, buffer: PhantomData }
    }

    /// The whole block as elements of `dtype`.
    pub(crate) fn as_slice(&self, dtype: DType) -> DeviceSlice<'_> {
        self.slice(0, self.bytes / dtype.size(), dtype)
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        self.gpu.free_block(self.pointer);
    }
}

impl DeviceSlice<'_> {
    /// Size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.dtype.bytes(self.len)
    }

    /// Slice of `len` elements, starting at element `start`.
    pub(crate) fn subslice(&self, start: usize, len: usize) -> Self {
        let end = start.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.len), "the subslice ends beyond its slice");
        DeviceSlice { pointer: self.pointer + (start * self.dtype.size()) as u64, len, ..*self }
    }
}
