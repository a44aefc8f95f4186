//! `--trace`: trace of one update in Chrome's Trace Event format, which Perfetto and chrome://tracing show.
use crate::callbacks::{BatchBegin, Callback, TrainBegin, TrainEnd, TrainSummary};
use crate::cli::output_file;
use crate::experiment::Experiment;
use crate::report::UpdateMetrics;
use crate::{Error, Result};
use fornax_engine::Device;
use fornax_engine::cuda::{DeviceInterval, KernelProfile, StreamKind};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Adds the trace of `--trace` to a run. Kernels of a replayed CUDA graph cannot be traced, so updates run eagerly. Rank 0 writes
/// its own.
pub(super) fn trace_update(experiment: &mut Experiment, path: &Path, rank: usize) -> Result<()> {
    if experiment.device == Device::Cpu {
        return Err(Error::usage("--trace needs a CUDA device")
            .because("it times kernels by CUDA events, and the run computes on the CPU")
            .remedy("omit it, or choose another --device"));
    }
    if experiment.cuda_graph == Some(true) {
        return Err(Error::usage("--trace does not work with --cuda-graph")
            .because("the kernels of a replayed CUDA graph have no times of their own")
            .remedy("omit one of them"));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(Error::usage("the folder of --trace does not exist")
            .at_path(folder)
            .remedy("create it, or choose another file"));
    }
    experiment.cuda_graph = Some(false);
    if rank > 0 {
        return Ok(());
    }
    experiment.callbacks.push(UpdateTrace::new(path.to_path_buf(), experiment.device));
    Ok(())
}

/// Writes a trace of one update: the kernels, collective operations and uploads of a CUDA device on its streams, and the waits for batches
/// and the calls that queue the update on the host. The update must run eagerly.
struct UpdateTrace {
    path: PathBuf,
    device: Device,
    /// Number of the traced update in this process, from 1.
    traced: u64,
    /// Updates that have begun in this process.
    begun: u64,
    recording: Option<Recording>,
}

/// The update after two others, which compile kernels and choose plans.
const TRACED_UPDATE: u64 = 3;

/// Thread of the host's intervals in the trace; those of the device follow.
const HOST: u32 = 0;

/// The update in progress.
struct Recording {
    profile: KernelProfile,
    /// Number of the update in the run.
    update: u64,
    started: Instant,
    /// Intervals of the host: name, and start and end in seconds from the start. They may begin before it.
    host: Vec<(&'static str, f64, f64)>,
    is_queued: bool,
}

impl UpdateTrace {
    /// A trace of the third update of this process, or of the last one if there are fewer, to a file.
    fn new(path: PathBuf, device: Device) -> UpdateTrace {
        UpdateTrace { path, device, traced: TRACED_UPDATE, begun: 0, recording: None }
    }

    fn write(&mut self) -> Result<()> {
        let Some(Recording { profile, update, host, .. }) = self.recording.take() else { return Ok(()) };
        let device = profile.finish_timeline()?;
        let text = serde_json::to_vec(&trace(update, &host, &device)).expect("a trace is valid JSON");
        output_file::write(&self.path, &text)
    }
}

impl Callback for UpdateTrace {
    fn on_train_begin(&mut self, event: &TrainBegin) -> Result<()> {
        let remaining =
            (u64::from(event.epochs) * event.updates_per_epoch).saturating_sub(event.state.update);
        if remaining == 0 {
            return Err(Error::usage("--trace has nothing to trace")
                .because("the run has no updates left")
                .remedy("omit it, or train for more epochs"));
        }
        self.traced = TRACED_UPDATE.min(remaining);
        Ok(())
    }

    fn on_batch_begin(&mut self, event: &BatchBegin) -> Result<()> {
        self.begun += 1;
        if let Some(recording) = &mut self.recording {
            recording.add_wait(event.data_wait);
        }
        self.write()?;
        if self.begun == self.traced {
            let profile = KernelProfile::start(&self.device)?;
            let mut recording = Recording {
                profile,
                update: event.update,
                started: Instant::now(),
                host: vec![],
                is_queued: false,
            };
            recording.add_wait(event.data_wait);
            self.recording = Some(recording);
        }
        Ok(())
    }

    fn on_batch_end(&mut self, _: &UpdateMetrics) -> Result<()> {
        // The first call is that of the update before, after the traced one was queued.
        if let Some(recording) = self.recording.as_mut().filter(|recording| !recording.is_queued) {
            recording.is_queued = true;
            recording.host.push(("queue the update", 0.0, recording.started.elapsed().as_secs_f64()));
        }
        Ok(())
    }

    fn on_train_summary(&mut self, _: &TrainSummary) -> Result<()> {
        self.write()
    }

    fn on_train_end(&mut self, _: &TrainEnd) -> Result<()> {
        self.write()
    }
}

impl Recording {
    /// Adds a wait for batches that ends now.
    fn add_wait(&mut self, wait: Duration) {
        let end = self.started.elapsed().as_secs_f64();
        self.host.push(("wait for batches", end - wait.as_secs_f64(), end));
    }
}

/// The trace: a process, with a thread for the host and for each stream that has work. Times are in microseconds from the first interval.
fn trace(update: u64, host: &[(&'static str, f64, f64)], device: &[DeviceInterval]) -> Value {
    let first = host.iter().map(|(_, start, _)| *start).fold(0.0, f64::min);
    let interval = |name: &str, thread: u32, start: f64, seconds: f64| {
        let (ts, dur) = ((start - first) * 1e6, seconds * 1e6);
        json!({ "name": name, "ph": "X", "pid": 0, "tid": thread, "ts": ts, "dur": dur })
    };
    let named = |what: &str, thread: u32, name: &str| json!({ "name": what, "ph": "M", "pid": 0, "tid": thread, "args": { "name": name } });
    let mut events =
        vec![named("process_name", HOST, &format!("update {update}")), named("thread_name", HOST, "host")];
    let mut streams: Vec<StreamKind> = device.iter().map(|interval| interval.stream).collect();
    streams.sort_unstable();
    streams.dedup();
    events.extend(streams.iter().map(|stream| named("thread_name", thread(*stream), stream_name(*stream))));
    events.extend(host.iter().map(|(name, start, end)| interval(name, HOST, *start, end - start)));
    events.extend(device.iter().map(|of| interval(&of.name, thread(of.stream), of.start, of.seconds)));
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}

fn thread(stream: StreamKind) -> u32 {
    match stream {
        StreamKind::Compute => 1,
        StreamKind::Communication => 2,
        StreamKind::Copy => 3,
    }
}

fn stream_name(stream: StreamKind) -> &'static str {
    match stream {
        StreamKind::Compute => "compute stream",
        StreamKind::Communication => "communication stream",
        StreamKind::Copy => "copy stream",
    }
}
