//! CUDA events that measure time.
use cudarc::driver::result::{DriverError, event};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};

/// Event with a time stamp.
pub(super) struct TimingEvent(CUevent);
// SAFETY: an event is a handle that any thread may use.
unsafe impl Send for TimingEvent {}

impl TimingEvent {
    pub(super) fn new() -> Result<TimingEvent, DriverError> {
        event::create(CUevent_flags::CU_EVENT_DEFAULT).map(TimingEvent)
    }

    /// Records the event after the work queued on a stream.
    ///
    /// # Safety
    /// The stream must be alive, and of the current context.
    pub(super) unsafe fn record(&self, stream: CUstream) -> Result<(), DriverError> {
        // SAFETY: the event is alive; the caller guarantees the stream.
        unsafe { event::record(self.0, stream) }
    }

    /// Waits for both events and returns the milliseconds from `start` to this one.
    pub(super) fn milliseconds_since(&self, start: &TimingEvent) -> Result<f32, DriverError> {
        // SAFETY: both events are alive.
        unsafe {
            event::synchronize(self.0)?;
            event::elapsed(start.0, self.0)
        }
    }
}

impl Drop for TimingEvent {
    fn drop(&mut self) {
        // SAFETY: this value owns the event. An error of its destruction cannot be handled.
        let _ = unsafe { event::destroy(self.0) };
    }
}
