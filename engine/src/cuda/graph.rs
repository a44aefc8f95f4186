//! CUDA graphs: a region's work recorded once, and replayed by one call.
use super::{CudaError, Gpu};
use crate::{Device, Result};
use cudarc::driver::result;
use cudarc::driver::sys::{CUgraphExec, CUgraphInstantiate_flags, CUstreamCaptureMode};
use std::sync::Arc;

/// Recorded work of a CUDA device. A replay reads and writes the very memory that the region did.
pub struct CudaGraph {
    gpu: Arc<Gpu>,
    executable: CUgraphExec,
}

// SAFETY: an executable graph is a handle that any thread may launch, one at a time; launches go through one stream.
unsafe impl Send for CudaGraph {}

impl CudaGraph {
    /// Records what `region` queues on a CUDA device, without doing it. The region is to be run once before, which compiles its
    /// kernels and plans its convolutions; its results go into tensors made before, by [`crate::Tensor::copy_from`], and those it
    /// makes itself are gone when it ends; it reads no element of a tensor. Tensors that it uses must outlive the graph.
    ///
    /// Other threads' work on the device waits meanwhile. Errors on the CPU, in a region that copies between host and device, and in a
    /// region that is being recorded.
    pub fn capture(device: &Device, region: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        let named = |failure: CudaError| failure.with_op_context("graph", *device, &[]);
        let Device::Cuda(ordinal) = *device else {
            return Err(named(CudaError::new("only the work of a CUDA device can be recorded")));
        };
        let gpu = Gpu::get(ordinal).map_err(named)?;
        // A graph has memory of its own: what the region's run before it used would lie idle beside that.
        gpu.trim_pool().map_err(named)?;
        let executable = {
            let _recording = gpu.turns.record().map_err(named)?;
            let _turn = gpu.bind().map_err(named)?;
            record(&gpu, region, &named)?
        };
        Ok(CudaGraph { executable, gpu })
    }

    /// Queues the recorded work again.
    pub fn replay(&self) -> Result<()> {
        let launched = self.gpu.bind().and_then(|_turn| {
            // SAFETY: the graph was instantiated in this context, and what it touches is alive by the promise of `capture`'s caller.
            unsafe { result::graph::launch(self.executable, self.gpu.stream()) }
                .map_err(|e| CudaError::driver("launching a graph", e))
        });
        launched.map_err(|e| e.with_op_context("graph", self.gpu.device(), &[]))
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // A launch that is still queued keeps the graph until it is done.
        if let Ok(_turn) = self.gpu.bind() {
            // SAFETY: the executable is this value's own.
            let _ = unsafe { result::graph::exec_destroy(self.executable) };
        }
    }
}

fn record(
    gpu: &Gpu,
    region: impl FnOnce() -> Result<()>,
    named: &dyn Fn(CudaError) -> crate::Error,
) -> Result<CUgraphExec> {
    let driver = |call: &str, error| named(CudaError::driver(call, error));
    // SAFETY: the stream is alive, and records until `end_capture`.
    unsafe {
        result::stream::begin_capture(gpu.stream(), CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    }
    .map_err(|e| driver("beginning to record", e))?;
    let done = region();
    // SAFETY: the stream is recording; ending it is due whatever the region did.
    let ended = unsafe { result::stream::end_capture(gpu.stream()) };
    done?;
    let graph = ended.map_err(|e| driver("ending to record", e))?;
    if graph.is_null() {
        return Err(named(CudaError::new("a call of the region cannot be recorded")));
    }
    // SAFETY: the graph is whole; its executable form does not need it any longer.
    unsafe {
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let executable = result::graph::instantiate(graph, flags);
        let _ = result::graph::destroy(graph);
        executable.map_err(|e| driver("instantiating a graph", e))
    }
}
