//! Caching allocator of host memory for tensors: aligned blocks, reused by size class.
//!
//! A training step allocates the same sizes repeatedly, and a fresh mapping of 50 MB costs more in page faults than the kernel that
//! fills it. A freed block therefore goes to the free list of its size class. Blocks of 2 MiB and more request huge pages.
use crate::{Device, Element, Error, Result};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Mutex;

const HUGE_PAGE: usize = 2 << 20;
const ALIGN: usize = 64;
/// Size from which [`CpuBuffer::untouched`] maps pages.
const SMALLEST_MAPPING: usize = 256 << 10;

/// Memory statistics of one device, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Allocated by live tensors and temporary buffers.
    pub allocated: usize,
    /// Peak of `allocated`.
    pub peak_allocated: usize,
    /// Allocated from the system or the CUDA driver: allocated plus cached.
    pub reserved: usize,
    /// Number of reserved blocks of the system or segments of the CUDA driver. Constant after the first steps of a training loop.
    pub segments: usize,
}

/// Current statistics of host memory.
pub fn memory_stats() -> MemoryStats {
    lock().stats
}

/// Releases all cached blocks to the system.
pub fn empty_cache() {
    let mut pool = lock();
    for (class, blocks) in std::mem::take(&mut pool.free) {
        for MemoryBlock(p) in blocks {
            pool.stats.reserved -= class;
            pool.stats.segments -= 1;
            // SAFETY: the block came from `alloc` with this layout and nothing refers to it.
            unsafe { dealloc(p.as_ptr(), layout(class)) };
        }
    }
}

/// Owned block of initialised bytes, 64-byte aligned, with at least 64 readable bytes past its end.
pub struct CpuBuffer {
    block: MemoryBlock,
    /// Bytes of the block in the pool; 0 for a block of another owner.
    class: usize,
    bytes: usize,
    /// Owner of memory that is not the pool's; it is released with this buffer.
    owner: Option<Box<dyn Send + Sync>>,
}

#[derive(Clone, Copy)]
struct MemoryBlock(NonNull<u8>);
// SAFETY: a block is plain memory with a single owner.
unsafe impl Send for MemoryBlock {}
// SAFETY: as above; shared access is to plain bytes.
unsafe impl Sync for MemoryBlock {}

struct Pool {
    free: BTreeMap<usize, Vec<MemoryBlock>>,
    stats: MemoryStats,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    free: BTreeMap::new(),
    stats: MemoryStats { allocated: 0, peak_allocated: 0, reserved: 0, segments: 0 },
});

fn lock() -> std::sync::MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(|e| e.into_inner())
}

/// Size class of an allocation: eight classes per doubling, so that at most an eighth is wasted and similar sizes share blocks.
fn size_class(bytes: usize) -> usize {
    let bytes = (bytes + ALIGN).next_multiple_of(ALIGN);
    let step = (bytes.next_power_of_two() / 16).max(ALIGN);
    bytes.next_multiple_of(step)
}

fn layout(class: usize) -> Layout {
    let align = if class >= HUGE_PAGE { HUGE_PAGE } else { ALIGN };
    Layout::from_size_align(class, align).expect("a size class fits the address space")
}

impl CpuBuffer {
    /// Allocates a block of at least `bytes` with arbitrary but initialised content.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the system has no memory.
    pub fn new(bytes: usize) -> Result<CpuBuffer> {
        let class = size_class(bytes);
        let mut pool = lock();
        // Best fit up to a quarter larger, so that a smaller last batch reuses the blocks of a full one.
        let fit = pool.free.range(class..=class + class / 4).next().map(|(c, _)| *c);
        let (block, class, fresh) = match fit {
            Some(class) => {
                let blocks = pool.free.get_mut(&class).expect("the class was just found");
                let block = blocks.pop().expect("an empty class is removed");
                if blocks.is_empty() {
                    pool.free.remove(&class);
                }
                (block, class, false)
            }
            None => {
                let block = system_alloc(class)
                    .ok_or_else(|| Error::out_of_memory(Device::Cpu, bytes, &pool.stats, None))?;
                pool.stats.reserved += class;
                pool.stats.segments += 1;
                (block, class, true)
            }
        };
        pool.stats.allocated += class;
        pool.stats.peak_allocated = pool.stats.peak_allocated.max(pool.stats.allocated);
        drop(pool);
        if cfg!(debug_assertions) || fresh {
            // Initialise fresh memory. In debug builds every block starts as NaN, to reveal kernels that read
            // elements they did not write.
            let fill = if cfg!(debug_assertions) { 0xff } else { 0 };
            // SAFETY: the block has `class` bytes and is ours alone.
            unsafe { block.0.as_ptr().write_bytes(fill, class) };
        }
        Ok(CpuBuffer { block, class, bytes, owner: None })
    }

    /// Reserves at least `bytes` of zeros that take no memory until they are accessed: for tensors of which only the shape is used. Small
    /// blocks come from the pool, as a mapping costs more than they do.
    pub(crate) fn untouched(bytes: usize) -> Result<CpuBuffer> {
        if bytes < SMALLEST_MAPPING {
            return CpuBuffer::new(bytes);
        }
        let mapped = bytes.checked_add(ALIGN).and_then(|length| memmap2::MmapMut::map_anon(length).ok());
        let mut map =
            mapped.ok_or_else(|| Error::out_of_memory(Device::Cpu, bytes, &memory_stats(), None))?;
        let start = NonNull::from(&mut map[0]);
        // SAFETY: the private anonymous map has `bytes + ALIGN` zeros at a page boundary, and lives as long as its owner, which nothing else uses.
        Ok(unsafe { CpuBuffer::from_owner(start, bytes, Box::new(map)) })
    }

    /// Uses memory of another owner, such as page-locked memory, until this buffer is dropped, and the owner with it.
    ///
    /// # Safety
    /// The owner keeps `bytes` initialised bytes at `start`, and 64 more, for this buffer alone; `start` is 64-byte aligned.
    pub(crate) unsafe fn from_owner(
        start: NonNull<u8>,
        bytes: usize,
        owner: Box<dyn Send + Sync>,
    ) -> CpuBuffer {
        CpuBuffer { block: MemoryBlock(start), class: 0, bytes, owner: Some(owner) }
    }

    /// The bytes as elements of `T`.
    pub fn as_slice<T: Element>(&self) -> &[T] {
        // SAFETY: the block is initialised, aligned for every element type and holds `bytes` bytes; any bit
        // pattern is a valid `T` (Pod).
        unsafe {
            std::slice::from_raw_parts(self.block.0.as_ptr().cast(), self.bytes / std::mem::size_of::<T>())
        }
    }

    /// The bytes as mutable elements of `T`.
    pub fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and `&mut self` is exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.block.0.as_ptr().cast(),
                self.bytes / std::mem::size_of::<T>(),
            )
        }
    }
}

impl Drop for CpuBuffer {
    fn drop(&mut self) {
        if self.owner.is_some() {
            return;
        }
        let mut pool = lock();
        pool.stats.allocated -= self.class;
        pool.free.entry(self.class).or_default().push(self.block);
    }
}

fn system_alloc(class: usize) -> Option<MemoryBlock> {
    if class > isize::MAX as usize - HUGE_PAGE {
        return None;
    }
    // SAFETY: the layout has a non-zero size.
    let p = NonNull::new(unsafe { alloc(layout(class)) })?;
    #[cfg(target_os = "linux")]
    if class >= HUGE_PAGE {
        // SAFETY: the range is our own fresh allocation; the advice changes no content, and failure is harmless.
        unsafe { libc::madvise(p.as_ptr().cast(), class, libc::MADV_HUGEPAGE) };
    }
    Some(MemoryBlock(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_waste_at_most_an_eighth_and_pad_the_end() {
        for bytes in [0, 1, 63, 64, 65, 1000, 4096, 123_456, 51_380_224, 1 << 30] {
            let class = size_class(bytes);
            assert!(
                class >= bytes + ALIGN && class <= bytes + bytes / 8 + 2 * ALIGN + ALIGN,
                "{bytes} {class}"
            );
            assert_eq!(size_class(class - ALIGN), class, "a class is a fixed point");
        }
    }

    #[test]
    fn freed_block_is_reused() {
        // A size used by no other test.
        let bytes = 7_654_321;
        let first = CpuBuffer::new(bytes).expect("memory").as_slice::<u8>().as_ptr();
        let second = CpuBuffer::new(bytes).expect("memory");
        assert_eq!(first, second.as_slice::<u8>().as_ptr());
        assert_eq!(second.as_slice::<u8>().len(), bytes);
        assert_eq!(second.as_slice::<f32>().as_ptr() as usize % ALIGN, 0);
    }

    #[test]
    fn untouched_blocks_are_zeros_and_take_no_memory_of_the_pool() {
        let bytes = 1 << 30;
        let block = CpuBuffer::untouched(bytes).expect("address space");
        let values = block.as_slice::<f32>();
        assert_eq!((values.len(), values[0], values[bytes / 4 - 1]), (bytes / 4, 0.0, 0.0));
        assert_eq!(block.class, 0);
        assert!(CpuBuffer::untouched(usize::MAX - 10).is_err());
    }

    #[test]
    fn oversized_allocation_is_rejected() {
        let Err(error) = CpuBuffer::new(isize::MAX as usize - 4096) else { panic!("allocation succeeded") };
        assert!(error.to_string().contains("out of memory on cpu"), "{error}");
    }
}
