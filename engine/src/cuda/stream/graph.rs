//! CUDA graphs: the work of a region, captured once and replayed by one call.
use crate::cuda::memory::allocator::GraphMemory;
use crate::cuda::stream::communication::CapturedGroup;
use crate::cuda::{CudaError, Gpu};
use crate::{Device, Result};
use cudarc::driver::result;
use cudarc::driver::sys::{CUgraphExec, CUgraphInstantiate_flags, CUstreamCaptureMode};
use std::sync::Arc;

/// Captured work of a CUDA device. A replay reads and writes the same memory addresses as the capture.
pub struct CudaGraph {
    gpu: Arc<Gpu>,
    executable: CUgraphExec,
    /// Groups of its collective operations. They are dropped after `executable` is destroyed, for which NCCL waits before it ends a
    /// communicator.
    groups: Vec<CapturedGroup>,
    /// Memory that replays access, besides tensors that outlive the graph.
    _memory: GraphMemory,
}

// SAFETY: an executable graph is a handle that any thread may launch, one at a time; launches go through one stream.
unsafe impl Send for CudaGraph {}

impl CudaGraph {
    /// Captures the work that `region` queues on a CUDA device, without running it. Run the region once before, which compiles its
    /// kernels and plans its convolutions. It must not read elements of a tensor. All tensors that it uses and does not drop must outlive
    /// the graph.
    ///
    /// The graph has its own memory, which includes free memory that the region's earlier run has left. Tensors allocated in the region
    /// hold its results after each replay, as long as they are not dropped. The memory of tensors dropped in the region is kept for
    /// replays, and reused only after the graph is dropped.
    ///
    /// Other threads' work on the device waits during the capture. Returns an error on the CPU, if the region copies between host and
    /// device, and for nested captures.
    pub fn capture(device: &Device, region: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        let in_op = |error: CudaError| error.with_op_context("cuda_graph", *device, &[]);
        let Device::Cuda(ordinal) = *device else {
            return Err(in_op(CudaError::new("only work on a CUDA device can be captured")));
        };
        let gpu = Gpu::get(ordinal).map_err(in_op)?;
        let _capture = gpu.capture_lock.begin_capture().map_err(in_op)?;
        // Cached memory is unused from here on, and may be released during the capture.
        gpu.synchronize().map_err(in_op)?;
        let _access = gpu.bind().map_err(in_op)?;
        let memory = gpu.begin_graph_memory();
        drop(gpu.communication.take_captured());
        let captured = capture_region(&gpu, region, &in_op);
        memory.end_capture();
        let groups = gpu.communication.take_captured();
        Ok(CudaGraph { executable: captured?, groups, _memory: memory, gpu: gpu.clone() })
    }

    /// Queues the captured work.
    pub fn replay(&self) -> Result<()> {
        let launched = self.gpu.bind().and_then(|_access| {
            // SAFETY: the graph was instantiated in this context, and `capture`'s caller keeps the memory that it accesses alive.
            unsafe { result::graph::launch(self.executable, self.gpu.stream()) }
                .map_err(|e| CudaError::from_driver("launching a graph", e))?;
            match self.groups.is_empty() {
                false => {
                    self.gpu.watch_communication("collective operation in a CUDA graph", self.gpu.stream())
                }
                true => Ok(()),
            }
        });
        launched.map_err(|e| e.with_op_context("cuda_graph", self.gpu.device(), &[]))
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // The driver keeps the graph until queued launches are done.
        if let Ok(_access) = self.gpu.bind() {
            // SAFETY: the executable is this value's own.
            let _ = unsafe { result::graph::exec_destroy(self.executable) };
        }
    }
}

fn capture_region(
    gpu: &Gpu,
    region: impl FnOnce() -> Result<()>,
    in_op: &dyn Fn(CudaError) -> crate::Error,
) -> Result<CUgraphExec> {
    let driver = |call: &str, error| in_op(CudaError::from_driver(call, error));
    // SAFETY: the stream is alive, and captures until `end_capture`.
    unsafe {
        result::stream::begin_capture(gpu.stream(), CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    }
    .map_err(|e| driver("beginning a capture", e))?;
    let done = region();
    // SAFETY: the stream is capturing; the capture must end whatever the region did.
    let ended = unsafe { result::stream::end_capture(gpu.stream()) };
    done?;
    let graph = ended.map_err(|e| driver("ending a capture", e))?;
    if graph.is_null() {
        return Err(in_op(CudaError::new("a call in the region cannot be captured")));
    }
    // SAFETY: the graph is complete; the executable graph does not depend on it.
    unsafe {
        let executable = result::graph::instantiate(graph, CUgraphInstantiate_flags(0));
        let _ = result::graph::destroy(graph);
        executable.map_err(|e| driver("instantiating a graph", e))
    }
}
