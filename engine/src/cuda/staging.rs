//! Copies between host and device through pinned blocks, so that an upload returns before the device has taken it.
use super::{CudaError, DeviceSlice, Gpu, Result};
use cudarc::driver::result;
use cudarc::driver::sys::{CUevent, CUevent_flags};
use std::sync::Mutex;

/// Pinned blocks of a device, each with an event that says when its last copy was done.
#[derive(Default)]
pub(super) struct Staging(Mutex<Vec<Pinned>>);

/// Bytes of one block: large enough for the driver's full copy speed, small enough to keep a few.
const BLOCK: usize = 4 << 20;
/// Blocks that are kept: one is filled while the others travel.
const BLOCKS: usize = 4;

struct Pinned {
    host: *mut u8,
    done: CUevent,
}
// SAFETY: the block is plain memory and the event a handle; whoever takes them out of the list has them alone.
unsafe impl Send for Pinned {}

impl Gpu {
    /// Queues a copy to the device. `from` may change as soon as this returns.
    pub(crate) fn upload(&self, from: &[u8], to: DeviceSlice) -> Result<()> {
        assert_eq!(from.len(), to.bytes(), "a copy keeps its length");
        let _turn = self.bind()?;
        for (i, piece) in from.chunks(BLOCK).enumerate() {
            let block = self.pinned()?;
            // SAFETY: the event of the block's last copy has passed, so its bytes are ours alone; the piece fits. The slice lies
            // inside a live block of this device.
            let queued = unsafe {
                std::ptr::copy_nonoverlapping(piece.as_ptr(), block.host, piece.len());
                let host = std::slice::from_raw_parts(block.host, piece.len());
                result::memcpy_htod_async(to.pointer + (i * BLOCK) as u64, host, self.stream())
                    .and_then(|()| result::event::record(block.done, self.stream()))
            };
            self.give_back(block);
            queued.map_err(|e| CudaError::driver("copying to the device", e))?;
        }
        Ok(())
    }

    /// Copies from the device, waiting for the work queued before.
    pub(crate) fn download(&self, from: DeviceSlice, to: &mut [u8]) -> Result<()> {
        assert_eq!(to.len(), from.bytes(), "a copy keeps its length");
        let _turn = self.bind()?;
        for (i, piece) in to.chunks_mut(BLOCK).enumerate() {
            let block = self.pinned()?;
            // SAFETY: as in `upload`; the stream is waited for before the bytes are read.
            let copied = unsafe {
                let host = std::slice::from_raw_parts_mut(block.host, piece.len());
                result::memcpy_dtoh_async(host, from.pointer + (i * BLOCK) as u64, self.stream())
                    .and_then(|()| result::event::record(block.done, self.stream()))
                    .and_then(|()| result::event::synchronize(block.done))
                    .map(|()| piece.copy_from_slice(host))
            };
            self.give_back(block);
            copied.map_err(|e| CudaError::driver("copying from the device", e))?;
        }
        Ok(())
    }

    /// A block whose last copy is done: one at rest, else a new one, else the one that has waited longest.
    fn pinned(&self) -> Result<Pinned> {
        if self.turns.is_recording() {
            return Err(CudaError::new(
                "a graph cannot hold copies between host and device: make them before or after it",
            ));
        }
        let taken = {
            let mut blocks = self.staging.0.lock().unwrap_or_else(|e| e.into_inner());
            // SAFETY: events live as long as the process.
            let resting = blocks.iter().position(|b| unsafe { result::event::query(b.done) }.is_ok());
            match resting {
                Some(i) => Some(blocks.remove(i)),
                None if blocks.len() >= BLOCKS => Some(blocks.remove(0)),
                None => None,
            }
        };
        let Some(block) = taken else { return new_block() };
        // SAFETY: as above.
        unsafe { result::event::synchronize(block.done) }
            .map_err(|e| CudaError::driver("waiting for an earlier copy", e))?;
        Ok(block)
    }

    fn give_back(&self, block: Pinned) {
        self.staging.0.lock().unwrap_or_else(|e| e.into_inner()).push(block);
    }
}

fn new_block() -> Result<Pinned> {
    // SAFETY: a new block and a new event, which nobody else knows. No flags: cached, so that the host reads it at full speed.
    unsafe {
        let host = result::malloc_host(BLOCK, 0).map_err(|e| CudaError::driver("pinning host memory", e))?;
        let done = result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)
            .map_err(|e| CudaError::driver("creating an event", e))?;
        Ok(Pinned { host: host.cast(), done })
    }
}
