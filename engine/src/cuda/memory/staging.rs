//! Asynchronous copies between host and device through pinned memory.
use crate::cuda::{CudaError, DeviceSlice, Gpu, Result};
use cudarc::driver::result;
use cudarc::driver::sys::{CUevent, CUevent_flags};
use std::sync::Mutex;

/// Pinned blocks of a device, each with an event that completes with its last copy.
#[derive(Default)]
pub(in crate::cuda) struct StagingPool(Mutex<Vec<PinnedBlock>>);

/// Bytes per block: large enough for the full copy bandwidth, small enough to keep a few.
const BLOCK_BYTES: usize = 4 << 20;
/// Number of blocks: one is filled while the others are copied.
const MAX_BLOCKS: usize = 4;

struct PinnedBlock {
    host: *mut u8,
    done: CUevent,
}
// SAFETY: the block is plain memory and the event a handle; a thread that takes them out of the list has exclusive access.
unsafe impl Send for PinnedBlock {}

impl Gpu {
    /// Queues a copy to the device. `from` may be changed as soon as this returns.
    pub(crate) fn upload(&self, from: &[u8], to: DeviceSlice) -> Result<()> {
        assert_eq!(from.len(), to.bytes(), "source and destination differ in size");
        let _access = self.bind()?;
        for (i, chunk) in from.chunks(BLOCK_BYTES).enumerate() {
            let block = self.acquire_pinned()?;
            // SAFETY: the block's last copy is done, so access to its bytes is exclusive; the chunk fits. The slice is inside a live
            // block of this device.
            let queued = unsafe {
                std::ptr::copy_nonoverlapping(chunk.as_ptr(), block.host, chunk.len());
                let host = std::slice::from_raw_parts(block.host, chunk.len());
                result::memcpy_htod_async(to.pointer + (i * BLOCK_BYTES) as u64, host, self.stream())
                    .and_then(|()| result::event::record(block.done, self.stream()))
            };
            self.release_pinned(block);
            queued.map_err(|e| CudaError::from_driver("copying to the device", e))?;
        }
        Ok(())
    }

    /// Copies from the device, after the work queued before, and waits for the copy.
    pub(crate) fn download(&self, from: DeviceSlice, to: &mut [u8]) -> Result<()> {
        assert_eq!(to.len(), from.bytes(), "source and destination differ in size");
        let _access = self.bind()?;
        for (i, chunk) in to.chunks_mut(BLOCK_BYTES).enumerate() {
            let block = self.acquire_pinned()?;
            // SAFETY: as in `upload`; the copy is waited for before the bytes are read.
            let copied = unsafe {
                let host = std::slice::from_raw_parts_mut(block.host, chunk.len());
                result::memcpy_dtoh_async(host, from.pointer + (i * BLOCK_BYTES) as u64, self.stream())
                    .and_then(|()| result::event::record(block.done, self.stream()))
                    .and_then(|()| result::event::synchronize(block.done))
                    .map(|()| chunk.copy_from_slice(host))
            };
            self.release_pinned(block);
            copied.map_err(|e| CudaError::from_driver("copying from the device", e))?;
        }
        Ok(())
    }

    /// Returns an error while this thread captures a graph: a replay would repeat the copy from or to memory that is reused.
    pub(in crate::cuda) fn check_copies_are_possible(&self) -> Result<()> {
        match self.capture_lock.is_capturing() {
            true => Err(CudaError::new(
                "copies between host and device cannot be captured in a CUDA graph: make them before or after the capture",
            )),
            false => Ok(()),
        }
    }

    /// Takes a block whose last copy is done: an idle one, else a new one, else, after waiting for it, the least recently used one.
    fn acquire_pinned(&self) -> Result<PinnedBlock> {
        self.check_copies_are_possible()?;
        let taken = {
            let mut blocks = self.staging.0.lock().unwrap_or_else(|e| e.into_inner());
            // SAFETY: events live as long as the process.
            let idle = blocks.iter().position(|b| unsafe { result::event::query(b.done) }.is_ok());
            match idle {
                Some(i) => Some(blocks.remove(i)),
                None if blocks.len() >= MAX_BLOCKS => Some(blocks.remove(0)),
                None => None,
            }
        };
        let Some(block) = taken else { return new_block() };
        // SAFETY: as above.
        unsafe { result::event::synchronize(block.done) }
            .map_err(|e| CudaError::from_driver("waiting for an earlier copy", e))?;
        Ok(block)
    }

    fn release_pinned(&self, block: PinnedBlock) {
        self.staging.0.lock().unwrap_or_else(|e| e.into_inner()).push(block);
    }
}

fn new_block() -> Result<PinnedBlock> {
    // SAFETY: the block and the event are new. Without flags the memory is cached, so that the host reads it at full speed.
    unsafe {
        let host = result::malloc_host(BLOCK_BYTES, 0)
            .map_err(|e| CudaError::from_driver("pinning host memory", e))?;
        let done = result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)
            .map_err(|e| CudaError::from_driver("creating an event", e))?;
        Ok(PinnedBlock { host: host.cast(), done })
    }
}
