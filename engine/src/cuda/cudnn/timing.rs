//! Timing of work on a stream.
use crate::cuda::library::LibraryError;
use cudarc::driver::result::{DriverError, event};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};

/// Timer with two CUDA events on a stream.
pub(super) struct EventTimer {
    stream: CUstream,
    start: Event,
    end: Event,
}

struct Event(CUevent);

impl EventTimer {
    pub(super) fn new(stream: CUstream) -> Result<EventTimer, LibraryError> {
        Ok(EventTimer { stream, start: Event::new()?, end: Event::new()? })
    }

    /// Queues `work`, waits for it, and returns its time in milliseconds.
    pub(super) fn time(&self, work: impl FnOnce() -> Result<(), LibraryError>) -> Result<f32, LibraryError> {
        self.start.record(self.stream)?;
        work()?;
        self.end.record(self.stream)?;
        // SAFETY: both events are alive and recorded.
        unsafe {
            event::synchronize(self.end.0).map_err(|e| failed("waiting for an event", e))?;
            event::elapsed(self.start.0, self.end.0).map_err(|e| failed("timing", e))
        }
    }
}

impl Event {
    fn new() -> Result<Event, LibraryError> {
        event::create(CUevent_flags::CU_EVENT_DEFAULT).map(Event).map_err(|e| failed("creating an event", e))
    }

    fn record(&self, stream: CUstream) -> Result<(), LibraryError> {
        // SAFETY: the event is alive, and the stream is that of the cuDNN handle.
        unsafe { event::record(self.0, stream) }.map_err(|e| failed("recording an event", e))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: this value owns the event. An error of its destruction cannot be handled.
        let _ = unsafe { event::destroy(self.0) };
    }
}

fn failed(call: &str, error: DriverError) -> LibraryError {
    LibraryError::Call {
        library: "CUDA",
        call: call.into(),
        status: error.0 as i32,
        message: error.to_string(),
    }
}
