//! Memory and a stream of the emulated device, in checked mode, which detects out-of-bounds accesses.
use cudarc::driver::sys::{CUdeviceptr, CUstream};
use cudarc::driver::{CudaContext, CudaStream, result};
use fornax_kernels::emulator;
use std::sync::Arc;

pub struct Device {
    stream: Arc<CudaStream>,
}

/// A block of device memory that starts at an offset from an aligned address.
pub struct Block {
    start: CUdeviceptr,
    offset: usize,
    len: usize,
}

impl Device {
    pub fn open() -> Device {
        emulator::load(&emulator::EmulatorOptions { checked: true, ..Default::default() }).unwrap();
        Device { stream: CudaContext::new(0).unwrap().new_stream().unwrap() }
    }

    pub fn stream(&self) -> CUstream {
        self.stream.cu_stream()
    }

    pub fn allocate(&self, len: usize, offset: usize) -> Block {
        // A block of 0 bytes cannot be allocated.
        // SAFETY: the context is current.
        let start = unsafe { result::malloc_sync((len + offset).max(1)) }.unwrap();
        Block { start, offset, len }
    }

    pub fn upload(&self, bytes: &[u8], offset: usize) -> Block {
        let block = self.allocate(bytes.len(), offset);
        // SAFETY: the block is as long as the bytes, which stay until the copy is done.
        unsafe { result::memcpy_htod_async(block.pointer(), bytes, self.stream()) }.unwrap();
        self.stream.synchronize().unwrap();
        block
    }

    /// Waits for the stream and reads a block.
    pub fn download(&self, block: &Block) -> Vec<u8> {
        let mut bytes = vec![0; block.len];
        // SAFETY: the block is as long as the bytes, which stay until the copy is done.
        unsafe { result::memcpy_dtoh_async(&mut bytes, block.pointer(), self.stream()) }.unwrap();
        self.stream.synchronize().unwrap();
        bytes
    }
}

impl Block {
    pub fn pointer(&self) -> CUdeviceptr {
        self.start + self.offset as u64
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the block is freed once, after the work that uses it.
        unsafe { result::free_sync(self.start) }.unwrap();
    }
}
