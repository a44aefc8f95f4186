//! Timing of work on a stream.
use super::api::driver_error;
use crate::cuda::library::LibraryError;
use cudarc::driver::result::event;
use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};

/// Timed runs of a candidate, of which the shortest counts.
const RUNS: usize = 3;

/// Timer with two CUDA events on a stream.
pub(super) struct EventTimer {
    stream: CUstream,
    start: Event,
    end: Event,
}

struct Event(CUevent);

impl EventTimer {
    /// Timer on a live stream of the current context.
    pub(super) fn new(stream: CUstream) -> Result<EventTimer, LibraryError> {
        Ok(EventTimer { stream, start: Event::new()?, end: Event::new()? })
    }

    /// Shortest time of several runs of `work`, in milliseconds, after one that is not timed.
    pub(super) fn best_time(
        &self,
        mut work: impl FnMut() -> Result<(), LibraryError>,
    ) -> Result<f32, LibraryError> {
        work()?;
        let mut best = f32::INFINITY;
        for _ in 0..RUNS {
            best = best.min(self.time(&mut work)?);
        }
        Ok(best)
    }

    /// Queues `work`, waits for it, and returns its time in milliseconds.
    fn time(&self, work: impl FnOnce() -> Result<(), LibraryError>) -> Result<f32, LibraryError> {
        self.start.record(self.stream)?;
        work()?;
        self.end.record(self.stream)?;
        // SAFETY: both events are alive and recorded.
        unsafe {
            event::synchronize(self.end.0).map_err(|e| driver_error("waiting for an event", e))?;
            event::elapsed(self.start.0, self.end.0).map_err(|e| driver_error("timing", e))
        }
    }
}

impl Event {
    fn new() -> Result<Event, LibraryError> {
        let created = event::create(CUevent_flags::CU_EVENT_DEFAULT);
        created.map(Event).map_err(|e| driver_error("creating an event", e))
    }

    fn record(&self, stream: CUstream) -> Result<(), LibraryError> {
        // SAFETY: the event is alive, and the stream is that of the cuDNN handle.
        unsafe { event::record(self.0, stream) }.map_err(|e| driver_error("recording an event", e))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: this value owns the event. An error of its destruction cannot be handled.
        let _ = unsafe { event::destroy(self.0) };
    }
}
