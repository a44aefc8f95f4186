//! CUDA events that measure time.
use cudarc::driver::result::{DriverError, event};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUresult, CUstream, culib};
use std::sync::OnceLock;

/// Event with a time stamp.
pub(in crate::cuda) struct TimingEvent(CUevent);
// SAFETY: an event is a handle that any thread may use.
unsafe impl Send for TimingEvent {}

impl TimingEvent {
    pub(in crate::cuda) fn new() -> Result<TimingEvent, DriverError> {
        event::create(CUevent_flags::CU_EVENT_DEFAULT).map(TimingEvent)
    }

    /// Records the event after the work queued on a stream.
    ///
    /// # Safety
    /// The stream must be alive, and of the current context.
    pub(in crate::cuda) unsafe fn record(&self, stream: CUstream) -> Result<(), DriverError> {
        // SAFETY: the event is alive; the caller guarantees the stream.
        unsafe { event::record(self.0, stream) }
    }

    /// Waits for both events and returns the milliseconds from `start` to this one.
    pub(in crate::cuda) fn milliseconds_since(&self, start: &TimingEvent) -> Result<f32, DriverError> {
        let mut milliseconds = 0.0;
        // SAFETY: both events are alive, and the pointer is to a local.
        unsafe {
            event::synchronize(self.0)?;
            elapsed_time()?(&mut milliseconds, start.0, self.0).result()?;
        }
        Ok(milliseconds)
    }
}

type ElapsedTime = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;

/// `cuEventElapsedTime`, which every driver has. cudarc calls `cuEventElapsedTime_v2`, without which it panics: drivers before CUDA 12.8
/// lack it.
fn elapsed_time() -> Result<ElapsedTime, DriverError> {
    static FUNCTION: OnceLock<Option<ElapsedTime>> = OnceLock::new();
    // SAFETY: the driver is loaded, as the events are its own, and the type is that of cuda.h.
    let find = || unsafe { culib().get::<ElapsedTime>(b"cuEventElapsedTime").ok().map(|function| *function) };
    FUNCTION.get_or_init(find).ok_or(DriverError(CUresult::CUDA_ERROR_NOT_FOUND))
}

impl Drop for TimingEvent {
    fn drop(&mut self) {
        // SAFETY: this value owns the event. An error of its destruction cannot be handled.
        let _ = unsafe { event::destroy(self.0) };
    }
}
