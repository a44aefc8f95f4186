//! CUDA events that order streams.
use cudarc::driver::result::{DriverError, event, stream};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUevent_wait_flags, CUstream};

/// Event without a time stamp. Its calls need the device's context.
pub(in crate::cuda) struct StreamEvent(CUevent);
// SAFETY: an event is a handle that any thread may use.
unsafe impl Send for StreamEvent {}

impl StreamEvent {
    /// Creates an event.
    pub(in crate::cuda) fn new() -> Result<StreamEvent, DriverError> {
        event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING).map(StreamEvent)
    }

    /// Records the event after the work queued on a stream of the device, which lives as long as the device.
    pub(in crate::cuda) fn record(&self, on: CUstream) -> Result<(), DriverError> {
        // SAFETY: the event is alive, and so are the device's streams.
        unsafe { event::record(self.0, on) }
    }

    /// Makes work queued on a stream from now on wait for the last record.
    pub(in crate::cuda) fn delay(&self, waiting: CUstream) -> Result<(), DriverError> {
        // SAFETY: as above.
        unsafe { stream::wait_event(waiting, self.0, CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
    }

    /// True if the work before the last record is done, or has failed.
    pub(in crate::cuda) fn is_done(&self) -> bool {
        use cudarc::driver::sys::CUresult::CUDA_ERROR_NOT_READY;
        // SAFETY: the event is alive.
        !matches!(unsafe { event::query(self.0) }, Err(DriverError(CUDA_ERROR_NOT_READY)))
    }
}

impl Drop for StreamEvent {
    fn drop(&mut self) {
        // SAFETY: this value owns the event; the driver keeps it until it completes. An error of its destruction cannot be handled.
        let _ = unsafe { event::destroy(self.0) };
    }
}
