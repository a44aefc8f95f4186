//! Plans built without a device, for timing on one: cuDNN's JSON representations in the cache folder, by kind of GPU, version of cuDNN and
//! problem. Restoring a plan saves the heuristics and most of the compilation.
use super::choices::key;
use super::problem::ConvProblem;
use fornax_kernels::cache;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Subfolder of the cache folder.
const CACHE: &str = "convolution-candidates";

/// Kind of GPU: devices of one kind run the same plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuKind {
    /// Compute capability, as (major, minor).
    pub capability: (u32, u32),
    /// Number of multiprocessors.
    pub multiprocessors: u32,
}

/// Numbers of convolution plans that this process has run as candidates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanCounts {
    /// Plans that ran.
    pub ran: usize,
    /// Of these, plans restored from their JSON representation.
    pub restored: usize,
    /// Restored plans that did not build or run.
    pub rejected: usize,
}

static RAN: AtomicUsize = AtomicUsize::new(0);
static RESTORED: AtomicUsize = AtomicUsize::new(0);
static REJECTED: AtomicUsize = AtomicUsize::new(0);

/// Counts of this process, on all devices.
pub fn plan_counts() -> PlanCounts {
    let [ran, restored, rejected] = [&RAN, &RESTORED, &REJECTED].map(|count| count.load(Ordering::Relaxed));
    PlanCounts { ran, restored, rejected }
}

/// Counts a candidate that was tried.
pub(super) fn count(is_restored: bool, ran: bool) {
    RAN.fetch_add(usize::from(ran), Ordering::Relaxed);
    RESTORED.fetch_add(usize::from(is_restored && ran), Ordering::Relaxed);
    REJECTED.fetch_add(usize::from(is_restored && !ran), Ordering::Relaxed);
}

/// Stores plans of a problem, best first, for processes with a GPU of that kind and that version of cuDNN. Benchmarks of convolutions then
/// time these instead of the plans of the heuristics.
pub fn store_plan_candidates(gpu: GpuKind, cudnn: usize, problem: &ConvProblem, plans: &[String]) {
    // A plan per line: line breaks of JSON are white space.
    let lines: Vec<String> = plans.iter().map(|json| json.replace('\n', " ")).collect();
    cache::store_text(CACHE, &file_key(gpu, cudnn, problem), &lines.join("\n"));
}

/// The stored plans of a problem; none if nothing was stored.
pub(super) fn load(gpu: GpuKind, cudnn: usize, problem: &ConvProblem) -> Vec<String> {
    let text = cache::load_text(CACHE, &file_key(gpu, cudnn, problem)).unwrap_or_default();
    text.lines().map(str::to_string).collect()
}

fn file_key(gpu: GpuKind, cudnn: usize, problem: &ConvProblem) -> String {
    let GpuKind { capability: (major, minor), multiprocessors } = gpu;
    format!(
        "compute capability {major}.{minor}, {multiprocessors} multiprocessors, cuDNN {cudnn}, {}",
        key(problem)
    )
}
