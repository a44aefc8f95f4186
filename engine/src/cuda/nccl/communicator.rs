//! NCCL communicator that never blocks the host, and can be aborted by any thread.
use super::api::{IN_PROGRESS, NcclApi, SUCCESS};
use crate::cuda::LibraryError;
use crate::{DType, Reduction};
use cudarc::driver::sys::{CUdeviceptr, CUstream};
use cudarc::nccl::sys;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Unique id of an NCCL communicator: rank 0 makes it and sends its bytes to all ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueId([u8; UniqueId::BYTES]);

/// One rank of a communicator. Calls need the device's context.
pub(super) struct Communicator {
    api: &'static NcclApi,
    /// Null after an abort.
    handle: AtomicPtr<c_void>,
    /// Held during a call.
    call: Mutex<()>,
    is_aborted: AtomicBool,
    /// NCCL's abort, which may take until the CUDA graphs with the communicator's operations are dropped.
    aborting: Mutex<Option<JoinHandle<()>>>,
    timeout: Duration,
}

/// Arrays of elements of one operation in device memory, which may be equal.
pub(super) struct Buffers {
    pub(super) from: CUdeviceptr,
    pub(super) to: CUdeviceptr,
    /// Number of elements of one rank.
    pub(super) count: usize,
    pub(super) dtype: DType,
}

/// Time after which an abort no longer waits for another thread's call.
const ABORT_WAIT: Duration = Duration::from_secs(2);
/// Time for which dropping an aborted communicator waits for NCCL.
const DROP_WAIT: Duration = Duration::from_secs(10);

impl UniqueId {
    /// Size in bytes.
    pub const BYTES: usize = 128;

    /// Makes a new unique id. Peers connect to this process, which must be alive while they join.
    pub fn new() -> Result<UniqueId, LibraryError> {
        let api = NcclApi::get()?;
        let mut id = sys::ncclUniqueId { internal: [0; UniqueId::BYTES] };
        // SAFETY: the function writes the id.
        match unsafe { (api.unique_id)(&mut id) } {
            SUCCESS => Ok(UniqueId(id.internal.map(|byte| byte as u8))),
            status => Err(call_error(api, "making a unique id", status)),
        }
    }

    /// The id with these bytes.
    pub fn from_bytes(bytes: [u8; UniqueId::BYTES]) -> UniqueId {
        UniqueId(bytes)
    }

    /// Bytes, to send to the other ranks.
    pub fn as_bytes(&self) -> &[u8; UniqueId::BYTES] {
        &self.0
    }
}

impl Communicator {
    /// Joins the communicator of an id on the device of the current context, and waits at most `timeout` for all ranks.
    pub(super) fn new(
        id: &UniqueId,
        rank: usize,
        world: usize,
        timeout: Duration,
    ) -> Result<Communicator, String> {
        let api = NcclApi::get().map_err(|e| e.to_string())?;
        let id = sys::ncclUniqueId { internal: id.0.map(|byte| byte as _) };
        let config = without_blocking();
        let mut handle = ptr::null_mut();
        // SAFETY: the function writes the handle; it copies the configuration.
        let status = unsafe { (api.init)(&mut handle, world as c_int, id, rank as c_int, &config) };
        if handle.is_null() {
            return Err(api.describe(status));
        }
        let communicator = Communicator {
            api,
            handle: AtomicPtr::new(handle),
            call: Mutex::new(()),
            is_aborted: AtomicBool::new(false),
            aborting: Mutex::new(None),
            timeout,
        };
        communicator.settle(handle, status).inspect_err(|_| communicator.abort())?;
        Ok(communicator)
    }

    /// Queues an all-reduce.
    ///
    /// # Safety
    /// As [`Communicator::call`].
    pub(super) unsafe fn all_reduce(
        &self,
        of: &Buffers,
        reduction: Reduction,
        stream: CUstream,
    ) -> Result<(), String> {
        let (dtype, reduction) = (data_type(of.dtype), reduction_type(reduction));
        // SAFETY: guaranteed by the caller.
        unsafe {
            self.call(|api, comm| (api.all_reduce)(of.from, of.to, of.count, dtype, reduction, comm, stream))
        }
    }

    /// Queues a broadcast from rank `root`.
    ///
    /// # Safety
    /// As [`Communicator::call`].
    pub(super) unsafe fn broadcast(&self, of: &Buffers, root: usize, stream: CUstream) -> Result<(), String> {
        let (dtype, root) = (data_type(of.dtype), root as c_int);
        // SAFETY: guaranteed by the caller.
        unsafe { self.call(|api, comm| (api.broadcast)(of.from, of.to, of.count, dtype, root, comm, stream)) }
    }

    /// Queues an all-gather: `to` has the elements of all ranks.
    ///
    /// # Safety
    /// As [`Communicator::call`].
    pub(super) unsafe fn all_gather(&self, of: &Buffers, stream: CUstream) -> Result<(), String> {
        let dtype = data_type(of.dtype);
        // SAFETY: guaranteed by the caller.
        unsafe { self.call(|api, comm| (api.all_gather)(of.from, of.to, of.count, dtype, comm, stream)) }
    }

    /// NCCL's message about its last problem; empty without any.
    pub(super) fn last_error(&self) -> String {
        self.api.last_error()
    }

    /// Asynchronous error, if any. A communicator that is in a call has none yet.
    pub(super) fn async_error(&self) -> Option<String> {
        let _call = self.call.try_lock().ok()?;
        let handle = self.handle.load(Ordering::Acquire);
        if handle.is_null() {
            return None;
        }
        let mut status = SUCCESS;
        // SAFETY: the handle is alive, as an abort waits for the lock; the function writes the status.
        let call = unsafe { (self.api.async_error)(handle, &mut status) };
        [call, status].into_iter().find(|&s| s != SUCCESS && s != IN_PROGRESS).map(|s| self.api.describe(s))
    }

    /// Ends queued operations, whose results are then undefined, and all later calls with an error. Does not wait for NCCL: this thread may
    /// own the graphs for which the abort waits.
    pub(super) fn abort(&self) {
        self.is_aborted.store(true, Ordering::Release);
        // A call that waits for NCCL ends by the flag. One that is stuck in NCCL itself ends by its abort.
        let call = self.lock_for(ABORT_WAIT);
        let handle = self.handle.swap(ptr::null_mut(), Ordering::AcqRel);
        drop(call);
        if handle.is_null() {
            return;
        }
        let (api, handle) = (self.api, AtomicPtr::new(handle));
        let aborting = thread::spawn(move || {
            // SAFETY: the handle is alive and used no more; NCCL allows an abort while another thread is in a call.
            unsafe { (api.abort)(handle.into_inner()) };
        });
        *self.aborting.lock().unwrap_or_else(|e| e.into_inner()) = Some(aborting);
    }

    /// Makes a call that queues an operation, and waits until it is queued.
    ///
    /// # Safety
    /// The context of the communicator's device is current, the stream belongs to it, and the device memory holds the elements until the
    /// operation is done.
    unsafe fn call(&self, start: impl FnOnce(&NcclApi, *mut c_void) -> i32) -> Result<(), String> {
        let _call = self.call.lock().unwrap_or_else(|e| e.into_inner());
        let handle = self.handle.load(Ordering::Acquire);
        if handle.is_null() || self.is_aborted.load(Ordering::Acquire) {
            return Err("the communicator was aborted".into());
        }
        let status = start(self.api, handle);
        self.settle(handle, status)
    }

    /// Waits until a call is no longer in progress.
    fn settle(&self, handle: *mut c_void, mut status: i32) -> Result<(), String> {
        let start = Instant::now();
        for round in 0.. {
            match status {
                SUCCESS => return Ok(()),
                IN_PROGRESS if self.is_aborted.load(Ordering::Acquire) => {
                    return Err("the communicator was aborted".into());
                }
                IN_PROGRESS if start.elapsed() > self.timeout => {
                    return Err(format!(
                        "no answer from the other ranks within {} s",
                        self.timeout.as_secs_f64()
                    ));
                }
                IN_PROGRESS if round < 100 => thread::yield_now(),
                IN_PROGRESS => thread::sleep(Duration::from_micros(200)),
                status => return Err(self.api.describe(status)),
            }
            // SAFETY: the handle is alive; the function writes the status.
            let call = unsafe { (self.api.async_error)(handle, &mut status) };
            if call != SUCCESS {
                status = call;
            }
        }
        unreachable!("the loop has no end")
    }

    /// Locks the calls, or gives up after a time.
    fn lock_for(&self, limit: Duration) -> Option<MutexGuard<'_, ()>> {
        let start = Instant::now();
        loop {
            match self.call.try_lock() {
                Ok(guard) => return Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if start.elapsed() > limit => return None,
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Drop for Communicator {
    /// Leaves the communicator after the operations queued so far.
    fn drop(&mut self) {
        let handle = *self.handle.get_mut();
        if !handle.is_null() {
            // SAFETY: the handle is alive, and used no more after it is destroyed.
            unsafe {
                let status = (self.api.finalize)(handle);
                if self.settle(handle, status).is_ok() {
                    (self.api.destroy)(handle);
                } else {
                    self.abort();
                }
            }
        }
        if let Some(aborting) = self.aborting.get_mut().unwrap_or_else(|e| e.into_inner()).take() {
            let start = Instant::now();
            while !aborting.is_finished() && start.elapsed() < DROP_WAIT {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Configuration without blocking, and NCCL's choice of everything else.
fn without_blocking() -> sys::ncclConfig_t {
    const UNDEFINED: c_int = c_int::MIN;
    sys::ncclConfig_t {
        size: size_of::<sys::ncclConfig_t>(),
        magic: 0xcafe_beef,
        version: 22800,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
    }
}

fn data_type(dtype: DType) -> sys::ncclDataType_t {
    match dtype {
        DType::F32 => sys::ncclDataType_t::ncclFloat32,
        DType::F16 => sys::ncclDataType_t::ncclFloat16,
        DType::BF16 => sys::ncclDataType_t::ncclBfloat16,
        DType::F64 => sys::ncclDataType_t::ncclFloat64,
        DType::I64 => sys::ncclDataType_t::ncclInt64,
        DType::U8 => sys::ncclDataType_t::ncclUint8,
    }
}

fn reduction_type(reduction: Reduction) -> sys::ncclRedOp_t {
    match reduction {
        Reduction::Sum => sys::ncclRedOp_t::ncclSum,
        Reduction::Mean => sys::ncclRedOp_t::ncclAvg,
        Reduction::Max => sys::ncclRedOp_t::ncclMax,
    }
}

fn call_error(api: &NcclApi, call: &str, status: i32) -> LibraryError {
    LibraryError::Call { library: "NCCL", call: call.into(), status, message: api.describe(status) }
}
