//! Profile of a device: the time of each kernel and library call, measured by events around each.
use super::timing_event::TimingEvent;
use super::{CudaError, Gpu, Result};
use crate::Device;
use cudarc::driver::result::DriverError;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Time of all launches of one kernel, or of all library calls of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// Name of the kernel or of the library call.
    pub name: String,
    /// Number of launches.
    pub launches: usize,
    /// Seconds on the device. The events around each launch keep kernels from overlapping, so the sum exceeds the time of an unprofiled run.
    pub seconds: f64,
}

/// Profile of a device from [`KernelProfile::start`] to [`KernelProfile::finish`]. Graph replays are not included: their kernels have no
/// events of their own.
///
/// ```no_run
/// use fornax_engine::cuda::KernelProfile;
/// use fornax_engine::{Device, Tensor};
///
/// let x = Tensor::full([1024], 1.0, fornax_engine::DType::F32, &Device::Cuda(0))?;
/// let profile = KernelProfile::start(&Device::Cuda(0))?;
/// x.exp()?;
/// for kernel in profile.finish()? {
///     println!("{:8.3} ms  {} ({})", 1e3 * kernel.seconds, kernel.name, kernel.launches);
/// }
/// # Ok::<(), fornax_engine::Error>(())
/// ```
pub struct KernelProfile {
    gpu: Arc<Gpu>,
}

/// Events of a device's profile in progress.
#[derive(Default)]
pub(super) struct KernelProfiler {
    is_active: AtomicBool,
    timed: Mutex<Vec<TimedLaunch>>,
}

struct TimedLaunch {
    name: String,
    start: TimingEvent,
    end: TimingEvent,
}

impl KernelProfile {
    /// Starts a profile. Returns an error for the CPU, and while another profile of the device is in progress.
    pub fn start(device: &Device) -> crate::Result<KernelProfile> {
        let in_op = |error: CudaError| error.with_op_context("profile", *device, &[]);
        let Device::Cuda(ordinal) = *device else {
            return Err(in_op(CudaError::new("only kernels of a CUDA device can be profiled")));
        };
        let gpu = Gpu::get(ordinal).map_err(in_op)?;
        if gpu.profiler.is_active.swap(true, Ordering::SeqCst) {
            return Err(in_op(CudaError::new("another profile of this device is in progress")));
        }
        Ok(KernelProfile { gpu })
    }

    /// Waits for the device and returns the times by kernel, longest first.
    pub fn finish(self) -> crate::Result<Vec<KernelTime>> {
        let launches = std::mem::take(&mut *self.gpu.profiler.lock());
        self.times(launches).map_err(|error| error.with_op_context("profile", self.gpu.device(), &[]))
    }

    fn times(&self, launches: Vec<TimedLaunch>) -> Result<Vec<KernelTime>> {
        let _access = self.gpu.bind()?;
        let mut by_name: BTreeMap<String, KernelTime> = BTreeMap::new();
        for TimedLaunch { name, start, end } in launches {
            let milliseconds = end.milliseconds_since(&start).map_err(|e| failed(&name, e))?;
            let entry = KernelTime { name: name.clone(), launches: 0, seconds: 0.0 };
            let time = by_name.entry(name).or_insert(entry);
            time.launches += 1;
            time.seconds += f64::from(milliseconds) / 1e3;
        }
        let mut times: Vec<KernelTime> = by_name.into_values().collect();
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(times)
    }
}

impl Drop for KernelProfile {
    fn drop(&mut self) {
        self.gpu.profiler.is_active.store(false, Ordering::SeqCst);
        self.gpu.profiler.lock().clear();
    }
}

impl KernelProfiler {
    fn lock(&self) -> MutexGuard<'_, Vec<TimedLaunch>> {
        self.timed.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Gpu {
    /// Runs `queue`, which queues a kernel or a library call, between two events if a profile is in progress. The context must be bound.
    pub(super) fn profiled<T, E: From<CudaError>>(
        &self,
        name: &dyn Display,
        queue: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        if !self.profiler.is_active.load(Ordering::Relaxed) || self.capture_lock.is_capturing() {
            return queue();
        }
        let event = || -> Result<TimingEvent> {
            let event = TimingEvent::new().map_err(|e| failed(name, e))?;
            // SAFETY: the stream lives as long as the device; the caller has bound its context.
            unsafe { event.record(self.stream()) }.map_err(|e| failed(name, e))?;
            Ok(event)
        };
        let start = event()?;
        let value = queue()?;
        self.profiler.lock().push(TimedLaunch { name: name.to_string(), start, end: event()? });
        Ok(value)
    }
}

fn failed(name: &dyn Display, error: DriverError) -> CudaError {
    CudaError::from_driver(format!("timing {name}"), error)
}
