//! Timing of work on a stream.
use super::api::driver_error;
use crate::cuda::library::LibraryError;
use crate::cuda::timing_event::TimingEvent;
use cudarc::driver::sys::CUstream;

/// Timed runs of a candidate, of which the shortest counts.
const RUNS: usize = 3;

/// Timer with two CUDA events on a stream.
pub(super) struct EventTimer {
    stream: CUstream,
    start: TimingEvent,
    end: TimingEvent,
}

impl EventTimer {
    /// Timer on a live stream of the current context.
    pub(super) fn new(stream: CUstream) -> Result<EventTimer, LibraryError> {
        let event = || TimingEvent::new().map_err(|e| driver_error("creating an event", e));
        Ok(EventTimer { stream, start: event()?, end: event()? })
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
        let record = |event: &TimingEvent| {
            // SAFETY: the stream is that of the cuDNN handle.
            unsafe { event.record(self.stream) }.map_err(|e| driver_error("recording an event", e))
        };
        record(&self.start)?;
        work()?;
        record(&self.end)?;
        self.end.milliseconds_since(&self.start).map_err(|e| driver_error("timing", e))
    }
}
