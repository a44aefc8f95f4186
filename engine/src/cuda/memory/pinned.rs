//! Page-locked (pinned) host memory of a device: blocks that copies read or write without the host, each reused once its last copy is done.
use crate::cuda::stream::capture_lock::relaxed_capture;
use crate::cuda::{CudaError, Gpu, Result};
use crate::host_memory::CpuBuffer;
use crate::{DType, Device, IntoShape, Tensor};
use cudarc::driver::result;
use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};
use std::collections::{BTreeMap, HashMap};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

/// Pinned blocks of a device. They are never unpinned, which would wait for the device.
#[derive(Default)]
pub(in crate::cuda) struct PinnedPool(Mutex<PinnedBlocks>);

#[derive(Default)]
struct PinnedBlocks {
    /// All blocks, by address.
    blocks: HashMap<usize, PinnedBlock>,
    /// Addresses of unused blocks, by size. Their last copy may still be in progress.
    free: BTreeMap<usize, Vec<usize>>,
}

struct PinnedBlock {
    bytes: usize,
    /// Completes with the block's last copy.
    last_copy: CUevent,
}
// SAFETY: an event is a handle that any thread may use.
unsafe impl Send for PinnedBlock {}

/// Owned pinned block. Dropping it returns it to the pool, even while a copy is in progress.
pub(in crate::cuda) struct PinnedBuffer {
    gpu: Arc<Gpu>,
    address: usize,
    bytes: usize,
}

/// Multiple of block sizes.
const GRANULE: usize = 4096;

/// Bytes after the end of a tensor's elements that may be read.
const PADDING: usize = 64;

/// A tensor on the CPU in page-locked memory, like PyTorch's `pin_memory`, of arbitrary content: [`upload`](crate::cuda::upload) copies it to
/// `device` without the host. Errors if `device` is the CPU.
pub fn pinned_tensor(shape: impl IntoShape, dtype: DType, device: &Device) -> crate::Result<Tensor> {
    let in_op = |error: CudaError| error.with_op_context("pinned_tensor", *device, &[]);
    let Device::Cuda(ordinal) = *device else {
        return Err(in_op(CudaError::new("only copies to a CUDA device need page-locked memory")));
    };
    let shape = shape.into_shape()?;
    let bytes = dtype.bytes(shape.numel());
    let buffer = Gpu::get(ordinal).and_then(|gpu| gpu.allocate_pinned(bytes + PADDING)).map_err(in_op)?;
    let start = NonNull::new(buffer.address as *mut u8).expect("the driver returned memory");
    // SAFETY: the buffer owns the block, which is initialised, page-aligned and has the padding; it moves into the tensor's memory.
    let memory = unsafe { CpuBuffer::from_owner(start, bytes, Box::new(buffer)) };
    Ok(Tensor::from_cpu_buffer(memory, shape, dtype))
}

impl Gpu {
    /// Takes a block of at least `bytes` whose last copy is done, or allocates one.
    pub(in crate::cuda) fn allocate_pinned(self: &Arc<Gpu>, bytes: usize) -> Result<PinnedBuffer> {
        let _access = self.bind()?;
        let bytes = bytes.next_multiple_of(GRANULE);
        if let Some(address) = self.pinned.lock().take_idle(bytes) {
            return Ok(PinnedBuffer { gpu: self.clone(), address, bytes });
        }
        // SAFETY: the block and the event are new; the block is initialised before it is used. Without flags the memory is cached, so that
        // the host reads it at full speed.
        let (address, last_copy) = unsafe {
            let host = relaxed_capture(|| result::malloc_host(bytes, 0))
                .map_err(|e| CudaError::from_driver("pinning host memory", e))?;
            host.cast::<u8>().write_bytes(0, bytes);
            let event = result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)
                .map_err(|e| CudaError::from_driver("creating an event", e))?;
            (host as usize, event)
        };
        self.pinned.lock().blocks.insert(address, PinnedBlock { bytes, last_copy });
        Ok(PinnedBuffer { gpu: self.clone(), address, bytes })
    }

    /// True if the memory at `address` is the start of a pinned block.
    pub(in crate::cuda) fn is_pinned(&self, address: usize) -> bool {
        self.pinned.lock().blocks.contains_key(&address)
    }

    /// Marks the pinned block at `address` as in use by the work that `stream` has queued.
    pub(in crate::cuda) fn record_pinned(&self, address: usize, stream: CUstream) -> Result<()> {
        let blocks = self.pinned.lock();
        let block = blocks.blocks.get(&address).expect("a pinned block");
        // SAFETY: events live as long as the process, and the stream is alive.
        unsafe { result::event::record(block.last_copy, stream) }
            .map_err(|e| CudaError::from_driver("recording an event", e))
    }

    /// Waits for the last copy of the pinned block at `address`.
    fn wait_for_pinned(&self, address: usize) -> Result<()> {
        let _access = self.bind()?;
        let last_copy = self.pinned.lock().blocks.get(&address).expect("a pinned block").last_copy;
        // SAFETY: events live as long as the process.
        relaxed_capture(|| unsafe { result::event::synchronize(last_copy) })
            .map_err(|e| CudaError::from_driver("waiting for a copy", e))
    }
}

impl PinnedPool {
    fn lock(&self) -> MutexGuard<'_, PinnedBlocks> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl PinnedBlocks {
    /// Takes an unused block of `bytes` to twice as many, whose last copy is done.
    fn take_idle(&mut self, bytes: usize) -> Option<usize> {
        for (_, addresses) in self.free.range_mut(bytes..=2 * bytes) {
            let is_idle = |a: &usize| {
                // SAFETY: events live as long as the process.
                relaxed_capture(|| unsafe { result::event::query(self.blocks[a].last_copy) }).is_ok()
            };
            if let Some(i) = addresses.iter().position(is_idle) {
                return Some(addresses.remove(i));
            }
        }
        None
    }
}

impl PinnedBuffer {
    /// Device that the block is pinned for.
    pub(in crate::cuda) fn device(&self) -> Device {
        self.gpu.device()
    }

    /// Address of the block.
    pub(in crate::cuda) fn address(&self) -> usize {
        self.address
    }

    /// The first `len` bytes, for a copy that is queued by the caller.
    pub(in crate::cuda) fn target(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= self.bytes, "the slice ends beyond its block");
        // SAFETY: the block is initialised and owned; no copy is in progress, as the block was taken when its last one was done.
        unsafe { std::slice::from_raw_parts_mut(self.address as *mut u8, len) }
    }

    /// The first `len` bytes, after waiting for the last copy.
    pub(in crate::cuda) fn wait(&self, len: usize) -> Result<&[u8]> {
        assert!(len <= self.bytes, "the slice ends beyond its block");
        self.gpu.wait_for_pinned(self.address)?;
        // SAFETY: the block is initialised and owned, and its last copy is done.
        Ok(unsafe { std::slice::from_raw_parts(self.address as *const u8, len) })
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        let mut blocks = self.gpu.pinned.lock();
        let bytes = blocks.blocks[&self.address].bytes;
        blocks.free.entry(bytes).or_default().push(self.address);
    }
}
