//! Who may use a device's stream: every thread, or, while a region is recorded as a graph, the one that records it. What another thread
//! queued meanwhile would be recorded instead of done.
use super::{CudaError, Result};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::{self, ThreadId};

/// Of one device.
#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    recording: Option<ThreadId>,
    /// Calls of threads that do not record.
    calls: usize,
}

/// Leave to call the driver, until it is dropped.
#[must_use = "the driver is to be called before it is dropped"]
pub(crate) struct Turn<'a>(Option<&'a Turns>);

/// Leave to record, until it is dropped.
pub(super) struct Recording<'a>(&'a Turns);

impl Turns {
    /// Waits while another thread records.
    pub(super) fn take(&self) -> Turn<'_> {
        let me = thread::current().id();
        let mut state = self.lock();
        loop {
            match state.recording {
                None => break,
                Some(thread) if thread == me => return Turn(None),
                Some(_) => state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner()),
            }
        }
        state.calls += 1;
        Turn(Some(self))
    }

    /// Waits for calls of other threads, and for another recording, to end.
    pub(super) fn record(&self) -> Result<Recording<'_>> {
        let me = thread::current().id();
        let mut state = self.lock();
        if state.recording == Some(me) {
            return Err(CudaError::new("another region is being recorded"));
        }
        while state.recording.is_some() || state.calls > 0 {
            state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
        }
        state.recording = Some(me);
        Ok(Recording(self))
    }

    /// True when this thread records.
    pub(super) fn is_recording(&self) -> bool {
        self.lock().recording == Some(thread::current().id())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(turns) = self.0 {
            turns.lock().calls -= 1;
            turns.changed.notify_all();
        }
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        self.0.lock().recording = None;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[test]
    fn others_wait_while_a_thread_records() {
        let (turns, calls) = (Turns::default(), AtomicUsize::new(0));
        thread::scope(|scope| {
            let recording = turns.record().expect("nobody records");
            assert!(turns.is_recording());
            let (turns, calls) = (&turns, &calls);
            for _ in 0..4 {
                scope.spawn(move || {
                    let _turn = turns.take();
                    assert!(!turns.is_recording());
                    calls.fetch_add(1, SeqCst);
                });
            }
            scope.spawn(move || {
                let _recording = turns.record().expect("waits for the first one");
                assert_eq!(turns.lock().calls, 0);
            });
            // Its own calls go on.
            drop(turns.take());
            assert!(turns.record().is_err(), "one region at a time");
            thread::sleep(std::time::Duration::from_millis(20));
            assert_eq!(calls.load(SeqCst), 0);
            drop(recording);
        });
        assert_eq!(calls.load(SeqCst), 4);
        assert!(!turns.is_recording());
    }
}
