//! Profile of a device: the time of each kernel and library call, measured by events around each, in sum or as a timeline.
use crate::Device;
use crate::cuda::stream::timing_event::TimingEvent;
use crate::cuda::{CudaError, DeviceInterval, Gpu, KernelTime, Result, StreamKind};
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUstream;
use cudarc::driver::{profiler_start, profiler_stop};
use fornax_kernels::emulator::counted_bytes;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

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
    start: TimingEvent,
}

/// Range of work that a profiler such as `ncu --profile-from-start off` records: from [`ProfilerRange::start`] until it is dropped. Without a
/// profiler it has no effect.
pub struct ProfilerRange(Arc<Gpu>);

/// Events of a device's profile in progress.
#[derive(Default)]
pub(in crate::cuda) struct KernelProfiler {
    is_active: AtomicBool,
    timed: Mutex<Vec<TimedLaunch>>,
}

struct TimedLaunch {
    name: String,
    stream: StreamKind,
    start: TimingEvent,
    end: TimingEvent,
    bytes: Option<u64>,
}

impl KernelProfile {
    /// Waits for the device and starts a profile. Returns an error for the CPU, and while another profile of the device is in progress.
    pub fn start(device: &Device) -> crate::Result<KernelProfile> {
        let in_op = |error: CudaError| error.with_op_context("profile", *device, &[]);
        let Device::Cuda(ordinal) = *device else {
            return Err(in_op(CudaError::new("only kernels of a CUDA device can be profiled")));
        };
        let gpu = Gpu::get(ordinal).map_err(in_op)?;
        if gpu.profiler.is_active.swap(true, Ordering::SeqCst) {
            return Err(in_op(CudaError::new("another profile of this device is in progress")));
        }
        let start = gpu.synchronize().and_then(|()| {
            let _access = gpu.bind()?;
            timing_event(gpu.stream(), &"the start of a profile")
        });
        let start = start.inspect_err(|_| gpu.profiler.is_active.store(false, Ordering::SeqCst));
        Ok(KernelProfile { start: start.map_err(in_op)?, gpu })
    }

    /// Waits for the device and returns the times by kernel of the compute stream, longest first.
    pub fn finish(self) -> crate::Result<Vec<KernelTime>> {
        let mut launches = std::mem::take(&mut *self.gpu.profiler.lock());
        launches.retain(|launch| launch.stream == StreamKind::Compute);
        self.times(launches).map_err(|error| error.with_op_context("profile", self.gpu.device(), &[]))
    }

    /// Waits for the device and returns what ran on its streams, in the order of the calls.
    pub fn finish_timeline(self) -> crate::Result<Vec<DeviceInterval>> {
        let launches = std::mem::take(&mut *self.gpu.profiler.lock());
        self.timeline(launches).map_err(|error| error.with_op_context("profile", self.gpu.device(), &[]))
    }

    fn timeline(&self, launches: Vec<TimedLaunch>) -> Result<Vec<DeviceInterval>> {
        let _access = self.gpu.bind()?;
        let interval = |TimedLaunch { name, stream, start, end, bytes }: TimedLaunch| {
            let since_start = start.milliseconds_since(&self.start).map_err(|e| failed(&name, e))?;
            let milliseconds = end.milliseconds_since(&start).map_err(|e| failed(&name, e))?;
            let (start, seconds) = (f64::from(since_start) / 1e3, f64::from(milliseconds) / 1e3);
            Ok(DeviceInterval { name, stream, start, seconds, bytes })
        };
        launches.into_iter().map(interval).collect()
    }

    fn times(&self, launches: Vec<TimedLaunch>) -> Result<Vec<KernelTime>> {
        let _access = self.gpu.bind()?;
        let mut by_name: BTreeMap<String, KernelTime> = BTreeMap::new();
        for TimedLaunch { name, start, end, .. } in launches {
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

impl ProfilerRange {
    /// Waits for the device and starts the range.
    pub fn start(device: &Device) -> crate::Result<ProfilerRange> {
        let in_op = |error: CudaError| error.with_op_context("profile", *device, &[]);
        let Device::Cuda(ordinal) = *device else {
            return Err(in_op(CudaError::new("only kernels of a CUDA device can be profiled")));
        };
        let gpu = Gpu::get(ordinal).map_err(in_op)?;
        let started = gpu.synchronize().and_then(|()| {
            let _access = gpu.bind()?;
            profiler_start().map_err(|e| CudaError::from_driver("starting the profiler", e))
        });
        started.map_err(in_op)?;
        Ok(ProfilerRange(gpu))
    }
}

impl Drop for ProfilerRange {
    fn drop(&mut self) {
        // An error of the device is returned by its next operation.
        drop(self.0.synchronize());
        if let Ok(_access) = self.0.bind() {
            let _ = profiler_stop();
        }
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
    /// Runs `queue`, which queues a kernel or a library call on the compute stream, between two events if a profile is in progress. The context
    /// must be bound.
    pub(in crate::cuda) fn profiled<T, E: From<CudaError>>(
        &self,
        name: &dyn Display,
        queue: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.profiled_on(StreamKind::Compute, self.stream(), name, queue)
    }

    /// The same for work on another stream of the device.
    pub(in crate::cuda) fn profiled_on<T, E: From<CudaError>>(
        &self,
        kind: StreamKind,
        stream: CUstream,
        name: &dyn Display,
        queue: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        if !self.profiler.is_active.load(Ordering::Relaxed) || self.capture_lock.is_capturing() {
            return queue();
        }
        let before = counted_bytes();
        let start = timing_event(stream, name)?;
        let value = queue()?;
        let end = timing_event(stream, name)?;
        let bytes = before.and_then(|before| Some(counted_bytes()? - before));
        self.profiler.lock().push(TimedLaunch { name: name.to_string(), stream: kind, start, end, bytes });
        Ok(value)
    }
}

/// An event, recorded on a stream of the device whose context is bound.
fn timing_event(stream: CUstream, name: &dyn Display) -> Result<TimingEvent> {
    let event = TimingEvent::new().map_err(|e| failed(name, e))?;
    // SAFETY: the streams live as long as the device; the caller has bound its context.
    unsafe { event.record(stream) }.map_err(|e| failed(name, e))?;
    Ok(event)
}

fn failed(name: &dyn Display, error: DriverError) -> CudaError {
    CudaError::from_driver(format!("timing {name}"), error)
}
