//! How long work on a stream takes.
use crate::cuda::library::LibraryError;
use cudarc::driver::result::{DriverError, event};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};

/// Two events on a stream.
pub(super) struct Stopwatch {
    stream: CUstream,
    start: Event,
    end: Event,
}

struct Event(CUevent);

impl Stopwatch {
    pub(super) fn new(stream: CUstream) -> Result<Stopwatch, LibraryError> {
        Ok(Stopwatch { stream, start: Event::new()?, end: Event::new()? })
    }

    /// Milliseconds that the work queued by `work` takes; waits for it.
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
        // SAFETY: the event is alive, the stream is that of the handle's owner.
        unsafe { event::record(self.0, stream) }.map_err(|e| failed("recording an event", e))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is this value's own. A failure to destroy it leaves nothing to do.
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
