//! Process group of GPUs: NCCL's operations on tensors, ordered with the compute stream, under a watchdog.
use super::communicator::{Buffers, Communicator, UniqueId};
use crate::collective::{check_reduction, gathered_shape};
use crate::cuda::stream::stream_event::StreamEvent;
use crate::cuda::{CudaError, Gpu, StreamKind, record_stream};
use crate::{Collective, DType, Device, Error, PendingCollective, Reduction, Result, Tensor};
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUstream;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// One rank of a process group over NCCL, on one CUDA device. It leaves the group after its queued operations, once it and the CUDA graphs with
/// its operations are dropped.
pub struct NcclCollective {
    group: Arc<Group>,
    watchdog: Option<JoinHandle<()>>,
}

/// The rank's part of the group, which pending operations, CUDA graphs and the watchdog refer to.
struct Group {
    gpu: Arc<Gpu>,
    communicator: Communicator,
    rank: usize,
    world: usize,
    timeout: Duration,
    state: Mutex<GroupState>,
    ended: Condvar,
}

#[derive(Default)]
struct GroupState {
    /// Error of the first operation that failed.
    failure: Option<String>,
    /// The group is dropped.
    is_ended: bool,
}

/// Time between two checks of the watchdog.
const WATCHDOG_PERIOD: Duration = Duration::from_millis(100);

impl NcclCollective {
    /// Joins the process group of an id as rank `rank` of `world`, on a CUDA device that no other rank uses. `timeout` limits the wait for the
    /// other ranks, here and in each operation.
    pub fn new(
        device: &Device,
        id: &UniqueId,
        rank: usize,
        world: usize,
        timeout: Duration,
    ) -> Result<NcclCollective> {
        let failed = |why: String| Error::Collective { op: "joining the process group", rank, world, why };
        let Device::Cuda(ordinal) = *device else {
            return Err(failed(format!("NCCL needs a CUDA device, and the rank is on {device}")));
        };
        let gpu = Gpu::get(ordinal).map_err(|e| failed(e.why))?;
        // The context stays current on this thread; other threads may capture while the ranks join.
        drop(gpu.bind().map_err(|e| failed(e.why))?);
        let communicator = Communicator::new(id, rank, world, timeout).map_err(failed)?;
        let (state, ended) = (Mutex::default(), Condvar::new());
        let group = Arc::new(Group { gpu, communicator, rank, world, timeout, state, ended });
        let watched = group.clone();
        let watchdog = thread::Builder::new().name("nccl-watchdog".into()).spawn(move || watched.watch());
        let watchdog = watchdog.map_err(|e| failed(format!("the watchdog thread cannot be started: {e}")))?;
        Ok(NcclCollective { group, watchdog: Some(watchdog) })
    }
}

impl Collective for NcclCollective {
    fn rank(&self) -> usize {
        self.group.rank
    }

    fn world_size(&self) -> usize {
        self.group.world
    }

    fn start_all_reduce(&self, tensor: &Tensor, reduction: Reduction) -> Result<PendingCollective> {
        check_reduction(tensor, reduction)?;
        self.group.start("all_reduce", tensor, tensor, |communicator, buffers, stream| {
            // SAFETY: `start` guarantees the context, the stream and the memory.
            unsafe { communicator.all_reduce(buffers, reduction, stream) }
        })
    }

    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<()> {
        if root >= self.group.world {
            return Err(self.group.error("broadcast", format!("there is no rank {root} to broadcast from")));
        }
        let started = self.group.start("broadcast", tensor, tensor, |communicator, buffers, stream| {
            // SAFETY: `start` guarantees the context, the stream and the memory.
            unsafe { communicator.broadcast(buffers, root, stream) }
        });
        started?.wait()
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Tensor> {
        let shape = gathered_shape(tensor, self.group.world)?;
        let gathered = Tensor::build_on(&self.group.gpu, shape, tensor.dtype(), |_| Ok(()));
        let gathered =
            gathered.map_err(|e| e.with_op_context("all_gather", tensor.device(), &[("tensor", tensor)]))?;
        let started = self.group.start("all_gather", tensor, &gathered, |communicator, buffers, stream| {
            // SAFETY: `start` guarantees the context, the stream and the memory, which has the gathered shape.
            unsafe { communicator.all_gather(buffers, stream) }
        });
        started?.wait()?;
        Ok(gathered)
    }

    fn barrier(&self) -> Result<()> {
        let group = &self.group;
        let flag = Tensor::zeros([1], DType::F32, &group.gpu.device())?;
        let started = group.start("barrier", &flag, &flag, |communicator, buffers, stream| {
            // SAFETY: `start` guarantees the context, the stream and the memory.
            unsafe { communicator.all_reduce(buffers, Reduction::Sum, stream) }
        });
        started?.wait()?;
        group.gpu.synchronize().map_err(|e| group.error("barrier", e.why))?;
        group.check("barrier")
    }

    fn check(&self) -> Result<()> {
        self.group.check("collective operation")
    }

    fn abort(&self) {
        self.group.fail("the process group was aborted".into());
    }
}

impl Drop for NcclCollective {
    fn drop(&mut self) {
        self.group.lock().is_ended = true;
        self.group.ended.notify_all();
        if let Some(watchdog) = self.watchdog.take() {
            // A panic of the watchdog was printed by its thread.
            let _ = watchdog.join();
        }
        self.group.gpu.communication.clear();
    }
}

impl fmt::Debug for NcclCollective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "NcclCollective(rank {} of {} on {})",
            self.group.rank,
            self.group.world,
            self.group.gpu.device()
        )
    }
}

impl Group {
    /// Queues an operation on the communication stream, after the work of the compute stream so far.
    fn start(
        self: &Arc<Group>,
        op: &'static str,
        from: &Tensor,
        to: &Tensor,
        queue: impl FnOnce(&Communicator, &Buffers, CUstream) -> std::result::Result<(), String>,
    ) -> Result<PendingCollective> {
        self.check(op)?;
        if from.device() != self.gpu.device() {
            let why = format!("the tensor is on {}, and the rank on {}", from.device(), self.gpu.device());
            return Err(self.error(op, why));
        }
        let (source, target) = (from.device_view(), to.device_view());
        let buffers = Buffers {
            from: source.slice().pointer,
            to: target.slice().pointer,
            count: from.numel(),
            dtype: from.dtype(),
        };
        let started = || -> std::result::Result<StreamEvent, String> {
            let driver = |e: DriverError| CudaError::from_driver("ordering the communication stream", e).why;
            let _access = self.gpu.bind().map_err(|e| e.why)?;
            let stream = self.gpu.communication_stream().map_err(|e| e.why)?;
            let event = StreamEvent::new().map_err(driver)?;
            event.record(self.gpu.stream()).and_then(|()| event.delay(stream)).map_err(driver)?;
            // SAFETY: the communication stream lives as long as the process.
            [from, to].into_iter().for_each(|tensor| unsafe { record_stream(tensor, stream) });
            to.bump_version();
            let queued = self.gpu.profiled_on(StreamKind::Communication, stream, &op, || {
                queue(&self.communicator, &buffers, stream).map_err(CudaError::new)
            });
            queued.map_err(|e| e.why)?;
            event.record(stream).map_err(driver)?;
            // The events of a capture belong to its graph, which is watched when it is replayed.
            if self.gpu.capture_lock.is_capturing() {
                self.gpu.communication.add_captured(self.clone());
            } else {
                self.gpu.watch_communication(op, stream).map_err(|e| e.why)?;
            }
            Ok(event)
        };
        // After an abort by another thread, the cause is its error.
        let done = started().map_err(|why| self.check(op).err().unwrap_or_else(|| self.error(op, why)))?;
        let group = self.clone();
        Ok(PendingCollective::new(move || {
            group.check(op)?;
            let waits = group.gpu.bind().and_then(|_access| {
                done.delay(group.gpu.stream())
                    .map_err(|e| CudaError::from_driver("waiting for an operation", e))
            });
            waits.map_err(|e| group.error(op, e.why))
        }))
    }

    /// Returns the error of the group, if an operation failed.
    fn check(&self, op: &'static str) -> Result<()> {
        match &self.lock().failure {
            Some(why) => Err(self.error(op, why.clone())),
            None => Ok(()),
        }
    }

    fn error(&self, op: &'static str, why: String) -> Error {
        Error::Collective { op, rank: self.rank, world: self.world, why }
    }

    /// Stores the first failure, and aborts the communicator, so that the streams go on.
    fn fail(&self, why: String) {
        self.lock().failure.get_or_insert(why);
        self.communicator.abort();
    }

    fn lock(&self) -> MutexGuard<'_, GroupState> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Aborts the communicator after an asynchronous error, or an operation that does not end in time; returns when the group is dropped.
    fn watch(&self) {
        let mut state = self.lock();
        loop {
            let waited = self.ended.wait_timeout(state, WATCHDOG_PERIOD);
            state = waited.unwrap_or_else(|e| e.into_inner()).0;
            if state.is_ended {
                return;
            }
            if state.failure.is_some() {
                continue;
            }
            drop(state);
            if let Some(why) = self.communicator.async_error().or_else(|| self.overdue()) {
                self.fail(why);
            }
            state = self.lock();
        }
    }

    fn overdue(&self) -> Option<String> {
        let op = self.gpu.overdue_communication(self.timeout)?;
        let (seconds, last) = (self.timeout.as_secs_f64(), self.communicator.last_error());
        let separator = if last.is_empty() { "" } else { "; NCCL: " };
        Some(format!(
            "{op} did not end within {seconds} s: another rank has ended, hangs, or calls another operation{separator}{last}"
        ))
    }
}
