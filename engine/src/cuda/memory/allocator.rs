//! Allocation of device memory from the arena of each device, whose segments come from the driver.
//!
//! Everything on a device runs in the order of one stream, so a freed block is reusable at once by work that is queued later. Two kinds of
//! blocks wait: blocks in use by another stream until its work is done, blocks of a CUDA graph until the
//! graph is dropped ([`GraphMemory`]).
use crate::cuda::memory::arena::{Address, Arena, GENERAL_POOL, MemoryPoolId};
use crate::cuda::stream::capture_lock::relaxed_capture;
use crate::cuda::{CudaError, Gpu, Result};
use crate::host_memory::MemoryStats;
use cudarc::driver::sys::{CUevent, CUevent_flags, CUresult, CUstream};
use cudarc::driver::{DriverError, result};
use fornax_kernels::emulator;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

/// Memory of one device: its arena, CUDA graph captures, and blocks that other streams use.
#[derive(Default)]
pub(in crate::cuda) struct DeviceMemory(Mutex<DeviceMemoryState>);

/// Private memory of a CUDA graph. Dropping it returns the memory to the general pool.
pub(in crate::cuda) struct GraphMemory {
    gpu: Arc<Gpu>,
    pool: MemoryPoolId,
}

struct DeviceMemoryState {
    arena: Arena,
    /// Pool of the capture in progress.
    capturing: Option<MemoryPoolId>,
    /// Blocks dropped during each capture that replays of its graph may still access.
    retained: BTreeMap<MemoryPoolId, Vec<Address>>,
    /// Streams besides the compute stream that use a block.
    stream_uses: HashMap<Address, Vec<StreamHandle>>,
    /// Dropped blocks that other streams may still use.
    pending: Vec<PendingFree>,
    /// Completed events, for reuse.
    events: Vec<EventHandle>,
}

/// Dropped block, with an event of each stream that used it.
struct PendingFree {
    address: Address,
    events: Vec<EventHandle>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct StreamHandle(CUstream);
// SAFETY: a stream is a handle that any thread may use.
unsafe impl Send for StreamHandle {}

struct EventHandle(CUevent);
// SAFETY: an event is a handle that any thread may use.
unsafe impl Send for EventHandle {}

impl DeviceMemory {
    pub(in crate::cuda) fn stats(&self) -> MemoryStats {
        self.lock().arena.stats()
    }

    /// True while a CUDA graph is captured.
    pub(in crate::cuda) fn is_capturing(&self) -> bool {
        self.lock().capturing.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, DeviceMemoryState> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Gpu {
    /// True while a CUDA graph is captured.
    pub(crate) fn is_capturing(&self) -> bool {
        self.memory.is_capturing()
    }

    /// Allocates a block of at least `bytes`. During a capture it comes from the private memory of the graph.
    pub(in crate::cuda) fn allocate_block(&self, bytes: usize) -> Result<Address> {
        let _access = self.capture_lock.enter();
        let mut state = self.memory.lock();
        if state.capturing.is_none() && !state.pending.is_empty() {
            self.free_completed(&mut state)?;
        }
        let pool = state.capturing.unwrap_or(GENERAL_POOL);
        let address = match state.arena.allocate(bytes, pool) {
            Some(address) => address,
            None => self.allocate_in_new_segment(&mut state, bytes, pool)?,
        };
        if emulator::is_loaded() {
            emulator::add_suballocation(address, bytes, Arena::block_bytes(bytes), self.stream())
                .map_err(CudaError::new)?;
        }
        Ok(address)
    }

    /// Frees a block, or keeps it while a CUDA graph or another stream may access it.
    pub(in crate::cuda) fn free_block(&self, address: Address) {
        // Other threads wait during a capture: the emulated device would capture the release.
        let _access = self.capture_lock.enter();
        let mut state = self.memory.lock();
        if let Some(capturing) = state.capturing {
            // A replay reads a block that was allocated before the capture again, with the same content.
            if state.arena.pool_of(address) != capturing || state.stream_uses.contains_key(&address) {
                state.retained.get_mut(&capturing).expect("a capture in progress").push(address);
                return;
            }
        }
        match state.stream_uses.remove(&address) {
            None => self.free_now(&mut state, address),
            // If the device failed, the block is never reused.
            Some(streams) => {
                if let Ok(events) = self.record_events(&mut state, &streams) {
                    state.pending.push(PendingFree { address, events });
                }
            }
        }
    }

    /// Marks a block as used by a stream, which outlives the block if it is not the compute stream.
    pub(in crate::cuda) fn record_stream(&self, block: Address, stream: CUstream) {
        if stream == self.stream() {
            return;
        }
        let (mut state, stream) = (self.memory.lock(), StreamHandle(stream));
        let uses = state.stream_uses.entry(block).or_default();
        if !uses.contains(&stream) {
            uses.push(stream);
        }
    }

    /// Begins the private memory of a CUDA graph: until [`GraphMemory::end_capture`], allocations come from it.
    pub(in crate::cuda) fn begin_graph_memory(self: &Arc<Gpu>) -> GraphMemory {
        let mut state = self.memory.lock();
        let pool = state.arena.add_pool();
        state.capturing = Some(pool);
        state.retained.insert(pool, vec![]);
        GraphMemory { gpu: self.clone(), pool }
    }

    /// Total memory of the device in bytes.
    pub(in crate::cuda) fn total_memory(&self) -> usize {
        let queried = self.bind().ok().and_then(|_access| relaxed_capture(result::mem_get_info).ok());
        queried.map_or(self.info().memory, |(_, total)| total)
    }

    fn free_now(&self, state: &mut DeviceMemoryState, address: Address) {
        if emulator::is_loaded() {
            emulator::remove_suballocation(address, self.stream());
        }
        state.arena.free(address);
    }

    /// Records an event on each stream.
    fn record_events(
        &self,
        state: &mut DeviceMemoryState,
        streams: &[StreamHandle],
    ) -> Result<Vec<EventHandle>> {
        let _access = self.bind()?;
        let record = |stream: &StreamHandle| {
            let event = match state.events.pop() {
                Some(event) => event.0,
                None => result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)?,
            };
            // SAFETY: the event is alive, and `record_stream`'s caller kept the stream alive.
            unsafe { result::event::record(event, stream.0) }?;
            Ok(EventHandle(event))
        };
        let recorded = streams.iter().map(record).collect::<std::result::Result<_, _>>();
        recorded.map_err(|e| CudaError::from_driver("recording an event", e))
    }

    /// Frees dropped blocks that other streams no longer use.
    fn free_completed(&self, state: &mut DeviceMemoryState) -> Result<()> {
        let _access = self.bind()?;
        for mut block in std::mem::take(&mut state.pending) {
            // SAFETY: events live as long as the process.
            let completed = |event: &mut EventHandle| unsafe { result::event::query(event.0) }.is_ok();
            state.events.extend(block.events.extract_if(.., completed));
            match block.events.is_empty() {
                true => self.free_now(state, block.address),
                false => state.pending.push(block),
            }
        }
        Ok(())
    }

    fn allocate_in_new_segment(
        &self,
        state: &mut DeviceMemoryState,
        bytes: usize,
        pool: MemoryPoolId,
    ) -> Result<Address> {
        let _access = self.bind()?;
        let segment_bytes = Arena::segment_bytes(bytes);
        let segment = match allocate_segment(segment_bytes) {
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                self.release_cached_segments(state)?;
                if let Some(address) = state.arena.allocate(bytes, pool) {
                    return Ok(address);
                }
                allocate_segment(segment_bytes)
            }
            other => other,
        };
        let segment = segment.map_err(|e| CudaError::from_allocation(bytes, e))?;
        state.arena.add_segment(segment, segment_bytes, pool);
        Ok(state.arena.allocate(bytes, pool).expect("the new segment fits"))
    }

    /// Frees all segments without allocated blocks, after waiting for the work that uses them. A capture cannot wait, but began after all
    /// work was done, and no other work is queued since.
    fn release_cached_segments(&self, state: &mut DeviceMemoryState) -> Result<()> {
        let failed = |e| CudaError::from_driver("releasing cached memory", e);
        if state.capturing.is_none() {
            self.synchronize()?;
            for event in state.pending.iter().flat_map(|block| &block.events) {
                // SAFETY: events live as long as the process.
                unsafe { result::event::synchronize(event.0) }.map_err(failed)?;
            }
            self.free_completed(state)?;
        }
        for segment in state.arena.remove_free_segments() {
            // SAFETY: the segment is from `cuMemAlloc`, its work is done, and the arena has forgotten it.
            relaxed_capture(|| unsafe { result::free_sync(segment) }).map_err(failed)?;
        }
        Ok(())
    }
}

impl GraphMemory {
    /// Ends the allocations from the graph's memory. The graph keeps its blocks, and blocks dropped during the capture.
    pub(in crate::cuda) fn end_capture(&self) {
        let mut state = self.gpu.memory.lock();
        if state.capturing == Some(self.pool) {
            state.capturing = None;
        }
    }
}

impl Drop for GraphMemory {
    fn drop(&mut self) {
        self.end_capture();
        let retained = self.gpu.memory.lock().retained.remove(&self.pool).unwrap_or_default();
        retained.into_iter().for_each(|address| self.gpu.free_block(address));
        self.gpu.memory.lock().arena.remove_pool(self.pool);
    }
}

impl Default for DeviceMemoryState {
    fn default() -> Self {
        DeviceMemoryState {
            arena: Arena::new(),
            capturing: None,
            retained: BTreeMap::new(),
            stream_uses: HashMap::new(),
            pending: vec![],
            events: vec![],
        }
    }
}

fn allocate_segment(bytes: usize) -> std::result::Result<Address, DriverError> {
    // SAFETY: the memory is uninitialised, and callers write before they read.
    relaxed_capture(|| unsafe { result::malloc_sync(bytes) })
}
