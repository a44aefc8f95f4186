//! CUDA graph capture and the rest of the program: the lock of a device's stream, and driver calls that are no part of a graph.
//!
//! During a capture only the capturing thread may use the stream, because another thread's calls would be captured instead of run. Without a
//! capture all threads may use it.
use crate::cuda::{CudaError, Result};
use cudarc::driver::DriverError;
use cudarc::driver::sys::{CUstreamCaptureMode, cuThreadExchangeStreamCaptureMode};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::{self, ThreadId};

/// Capture lock of one device.
#[derive(Default)]
pub(in crate::cuda) struct CaptureLock {
    state: Mutex<CaptureLockState>,
    changed: Condvar,
}

#[derive(Default)]
struct CaptureLockState {
    capturing: Option<ThreadId>,
    /// Number of calls in progress outside of a capture.
    calls: usize,
    /// Number of threads that wait to begin a capture.
    waiting_captures: usize,
}

/// Permission to use the stream until it is dropped.
#[must_use = "the stream may only be used until this is dropped"]
pub(crate) struct StreamAccess<'a>(Option<&'a CaptureLock>);

/// Permission to capture until it is dropped.
pub(in crate::cuda) struct CaptureGuard<'a>(&'a CaptureLock);

impl CaptureLock {
    /// Waits while another thread captures.
    pub(in crate::cuda) fn enter(&self) -> StreamAccess<'_> {
        let mut state = self.lock();
        while let Some(capturing) = state.capturing {
            if capturing == thread::current().id() {
                return StreamAccess(None);
            }
            state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
        }
        state.calls += 1;
        StreamAccess(Some(self))
    }

    /// Waits for other threads' calls and captures to end. Returns an error if this thread is already capturing.
    pub(in crate::cuda) fn begin_capture(&self) -> Result<CaptureGuard<'_>> {
        let me = thread::current().id();
        let mut state = self.lock();
        if state.capturing == Some(me) {
            return Err(CudaError::new("this thread is already capturing a CUDA graph"));
        }
        state.waiting_captures += 1;
        while state.capturing.is_some() || state.calls > 0 {
            state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
        }
        state.waiting_captures -= 1;
        state.capturing = Some(me);
        Ok(CaptureGuard(self))
    }

    /// True if this thread is capturing.
    pub(in crate::cuda) fn is_capturing(&self) -> bool {
        self.lock().capturing == Some(thread::current().id())
    }

    fn lock(&self) -> MutexGuard<'_, CaptureLockState> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for StreamAccess<'_> {
    fn drop(&mut self) {
        if let Some(capture_lock) = self.0 {
            let mut state = capture_lock.lock();
            state.calls -= 1;
            // A notification is a system call, and this runs at every launch.
            if state.calls == 0 && state.waiting_captures > 0 {
                capture_lock.changed.notify_all();
            }
        }
    }
}

impl Drop for CaptureGuard<'_> {
    fn drop(&mut self) {
        self.0.lock().capturing = None;
        self.0.changed.notify_all();
    }
}

/// Runs a driver call that a capture of this thread would reject: on memory, modules, or events recorded before the capture. They are allowed
/// in the relaxed mode, and are no part of the graph.
pub(in crate::cuda) fn relaxed_capture<T>(
    call: impl FnOnce() -> std::result::Result<T, DriverError>,
) -> std::result::Result<T, DriverError> {
    let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: the pointer is to a local, which receives the thread's previous mode.
    unsafe { cuThreadExchangeStreamCaptureMode(&mut mode) }.result()?;
    let done = call();
    // SAFETY: as above.
    unsafe { cuThreadExchangeStreamCaptureMode(&mut mode) }.result()?;
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[test]
    fn other_threads_wait_during_a_capture() {
        let (capture_lock, calls) = (CaptureLock::default(), AtomicUsize::new(0));
        thread::scope(|scope| {
            let capture = capture_lock.begin_capture().expect("no capture in progress");
            assert!(capture_lock.is_capturing());
            let (capture_lock, calls) = (&capture_lock, &calls);
            for _ in 0..4 {
                scope.spawn(move || {
                    let _access = capture_lock.enter();
                    assert!(!capture_lock.is_capturing());
                    calls.fetch_add(1, SeqCst);
                });
            }
            scope.spawn(move || {
                let _capture = capture_lock.begin_capture().expect("waits for the first one");
                assert_eq!(capture_lock.lock().calls, 0);
            });
            // The capturing thread's own calls do not wait.
            drop(capture_lock.enter());
            assert!(capture_lock.begin_capture().is_err(), "captures cannot be nested");
            thread::sleep(std::time::Duration::from_millis(20));
            assert_eq!(calls.load(SeqCst), 0);
            drop(capture);
        });
        assert_eq!(calls.load(SeqCst), 4);
        assert!(!capture_lock.is_capturing());
    }
}
