//! Communication stream of a device, and its queued operations, which a peer's failure can keep from ending.
use crate::cuda::stream::stream_event::StreamEvent;
use crate::cuda::{CudaError, Gpu, Result};
use cudarc::driver::CudaStream;
use cudarc::driver::sys::CUstream;
use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

/// Communication of one device.
#[derive(Default)]
pub(in crate::cuda) struct Communication {
    stream: OnceLock<Arc<CudaStream>>,
    queued: Mutex<Vec<QueuedOperation>>,
    /// Groups whose operations were queued during the capture in progress, or the last one.
    captured: Mutex<Vec<CapturedGroup>>,
}

/// A process group whose operations a graph contains: its communicator must not be destroyed before the graph.
pub(in crate::cuda) type CapturedGroup = Arc<dyn Any + Send + Sync>;

struct QueuedOperation {
    op: &'static str,
    since: Instant,
    done: StreamEvent,
}

impl Communication {
    /// Records that the capture in progress has an operation of a group.
    pub(in crate::cuda) fn add_captured(&self, group: CapturedGroup) {
        let mut captured = self.captured.lock().unwrap_or_else(|e| e.into_inner());
        if !captured.iter().any(|other| Arc::ptr_eq(other, &group)) {
            captured.push(group);
        }
    }

    /// Returns the groups with operations in the last capture, and forgets them.
    pub(in crate::cuda) fn take_captured(&self) -> Vec<CapturedGroup> {
        std::mem::take(&mut *self.captured.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// Forgets all queued operations.
    pub(in crate::cuda) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<QueuedOperation>> {
        self.queued.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Gpu {
    /// Stream of collective operations, created at its first use; it lives as long as the process.
    pub(in crate::cuda) fn communication_stream(&self) -> Result<CUstream> {
        if self.communication.stream.get().is_none() {
            let new = self.new_stream()?;
            self.communication.stream.get_or_init(|| new);
        }
        Ok(self.communication.stream.get().expect("it was just created").cu_stream())
    }

    /// Watches the work queued on a stream so far, which contains a collective operation. The context must be bound.
    pub(in crate::cuda) fn watch_communication(&self, op: &'static str, stream: CUstream) -> Result<()> {
        let failed = |e| CudaError::from_driver("recording an event", e);
        let done = StreamEvent::new().map_err(failed)?;
        done.record(stream).map_err(failed)?;
        self.communication.lock().push(QueuedOperation { op, since: Instant::now(), done });
        Ok(())
    }

    /// An operation that was queued `timeout` ago and is not done, if any. Recent operations are not queried: on the emulated device a query
    /// runs work.
    pub(in crate::cuda) fn overdue_communication(&self, timeout: Duration) -> Option<&'static str> {
        let grace = (timeout / 4).min(Duration::from_secs(1));
        let is_old = |queued: &QueuedOperation| queued.since.elapsed() > grace;
        if !self.communication.lock().iter().any(is_old) {
            return None;
        }
        let _access = self.bind().ok()?;
        let mut queued = self.communication.lock();
        queued.retain(|queued| !is_old(queued) || !queued.done.is_done());
        queued.iter().find(|queued| queued.since.elapsed() > timeout).map(|queued| queued.op)
    }
}
