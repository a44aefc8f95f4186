//! Timing of work on a stream.
use super::api::driver_error;
use crate::cuda::LibraryError;
use crate::cuda::stream::timing_event::TimingEvent;
use cudarc::driver::sys::CUstream;

/// Timings of a candidate, of which the median counts.
const TIMINGS: usize = 3;
/// Least time of the runs that a timing covers, in milliseconds. The device waits for the host at the first of them, which takes 10 to 20
/// us.
const LEAST_TIME: f32 = 0.2;
/// Maximum number of runs that a timing covers.
const MAX_RUNS: usize = 256;

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

    /// Time of one run of `work` in milliseconds, after one that is not timed: the median of three timings, each of which covers as many
    /// queued runs as take 200 us.
    pub(super) fn median_time(
        &self,
        mut work: impl FnMut() -> Result<(), LibraryError>,
    ) -> Result<f32, LibraryError> {
        work()?;
        let mut runs = 1;
        let mut times = vec![self.time(runs, &mut work)?];
        while times[0] < LEAST_TIME && runs < MAX_RUNS {
            let needed = (runs as f32 * LEAST_TIME / times[0].max(1e-3)).ceil() as usize;
            runs = needed.max(runs + 1).min(MAX_RUNS);
            times[0] = self.time(runs, &mut work)?;
        }
        while times.len() < TIMINGS {
            times.push(self.time(runs, &mut work)?);
        }
        times.sort_by(f32::total_cmp);
        Ok(times[TIMINGS / 2] / runs as f32)
    }

    /// Queues `work` several times, waits for it, and returns the time of all runs in milliseconds.
    fn time(
        &self,
        runs: usize,
        mut work: impl FnMut() -> Result<(), LibraryError>,
    ) -> Result<f32, LibraryError> {
        let record = |event: &TimingEvent| {
            // SAFETY: the stream is that of the cuDNN handle.
            unsafe { event.record(self.stream) }.map_err(|e| driver_error("recording an event", e))
        };
        record(&self.start)?;
        (0..runs).try_for_each(|_| work())?;
        record(&self.end)?;
        self.end.milliseconds_since(&self.start).map_err(|e| driver_error("timing", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::Gpu;
    use cudarc::driver::result;

    /// Time by the timer, and number of runs, of work that queues as many memsets as `operations` returns for each run. A memset takes 10
    /// us of emulated time.
    fn timed(mut operations: impl FnMut(usize) -> usize) -> (f32, usize) {
        fornax_kernels::emulator::load(&Default::default()).expect("g++ is installed");
        let gpu = Gpu::get(0).expect("an emulated device");
        let _access = gpu.bind().expect("binds");
        // Memory and a stream of their own: other tests queue work on the device's stream.
        // SAFETY: a device is bound, and the memory is freed once.
        let memory = unsafe { result::malloc_sync(64) }.expect("memory");
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).expect("a stream");
        let mut runs = 0;
        let time = EventTimer::new(stream).expect("events").median_time(|| {
            runs += 1;
            // SAFETY: stream and memory are alive until the work has been done.
            (0..operations(runs))
                .for_each(|_| unsafe { result::memset_d8_async(memory, 0, 64, stream).expect("queues") });
            Ok(())
        });
        // SAFETY: the timer waited for the work.
        unsafe { result::stream::destroy(stream).and(result::free_sync(memory)) }.expect("freed");
        (time.expect("times"), runs)
    }

    #[test]
    fn timing_of_short_work_covers_200_microseconds() {
        let (time, runs) = timed(|_| 1);
        // One run that is not timed, one for the estimate, and three timings of 200 us.
        assert!((55..=70).contains(&runs), "{runs} runs");
        assert!((0.009..0.012).contains(&time), "{time} ms");
    }

    #[test]
    fn median_of_three_timings_counts() {
        // Runs 2 to 4 are timed; the last one is disturbed.
        let (time, runs) = timed(|run| if run == 4 { 500 } else { 30 });
        assert_eq!(runs, 4);
        assert!((0.29..0.33).contains(&time), "{time} ms");
        let (time, _) = timed(|run| if run == 3 { 21 } else { 30 });
        assert!((0.29..0.33).contains(&time), "{time} ms: not the shortest");
    }
}
