//! Rows for GPUs: fused operations compared with compositions of single operations, convolutions, and training steps; launches of a step, and
//! repeats of fused convolutions. `scripts/gpu-suite` also runs the rows in PyTorch and writes a table of both.
pub mod convolutions;
pub mod launches;
pub mod operations;
pub mod repeats;
pub mod steps;

pub use steps::StepRow;

use fornax_engine::cuda::CudaGraph;
use fornax_engine::cuda::cudnn::ConvBenchmark;
use fornax_engine::{Device, Result};
use std::time::Instant;

/// Row of the GPU benchmarks: the same computation in several variants.
pub struct GpuRow {
    /// Name, the same as in `scripts/gpu/torch_rows.py`.
    pub name: String,
    /// Minimum number of bytes that the computation moves; 0 if bandwidth does not bound it.
    pub bytes: usize,
    /// Allocates the operands on a device and returns the variants by name.
    pub prepare: Box<PrepareRow>,
}

/// Function that allocates a row's operands.
pub type PrepareRow = dyn FnOnce(&Device) -> Result<Vec<NamedVariant>>;

/// Variant of a row, with its name.
pub type NamedVariant = (&'static str, Variant);

/// Queues the computation once on a device, without synchronising.
pub type Variant = Box<dyn FnMut() -> Result<()>>;

/// Problem sizes of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemSize {
    /// Sizes of a training run on a large GPU.
    Full,
    /// Small sizes, with which the emulated device tests the suite; their times are meaningless.
    Smoke,
}

impl ProblemSize {
    /// One of two values by size.
    pub fn pick(self, full: usize, smoke: usize) -> usize {
        if self == ProblemSize::Full { full } else { smoke }
    }

    /// The timing of convolution plans. On the emulated device every execution takes long, and the choices are not worth keeping.
    pub fn conv_benchmark(self) -> ConvBenchmark {
        match self {
            ProblemSize::Full => ConvBenchmark::default(),
            ProblemSize::Smoke => ConvBenchmark {
                candidates: 2,
                // The first one of the emulated cuDNN does not compile in bf16.
                fused_candidates: 2,
                disk_cache: false,
                ..ConvBenchmark::default()
            },
        }
    }
}

/// Name and seconds per run of each variant: medians over interleaved rounds of replays of a CUDA graph.
pub fn measure(row: GpuRow, device: &Device, size: ProblemSize) -> Result<Vec<(&'static str, f64)>> {
    let mut graphs = vec![];
    for (name, mut variant) in (row.prepare)(device)? {
        // Compiles kernels, plans convolutions, fills the memory pool.
        (0..2).try_for_each(|_| variant())?;
        device.synchronize()?;
        graphs.push((name, CudaGraph::capture(device, &mut variant)?, variant));
    }
    let timed = |graph: &CudaGraph, repeats: usize| -> Result<f64> {
        let started = Instant::now();
        (0..repeats).try_for_each(|_| graph.replay())?;
        device.synchronize()?;
        Ok(started.elapsed().as_secs_f64() / repeats as f64)
    };
    let mut repeats: Vec<usize> = vec![];
    for (_, graph, _) in &graphs {
        // The same warm-up as in `torch_rows.py`.
        timed(graph, 2)?;
        let once = timed(graph, 1)?.max(1e-7);
        repeats.push(if size == ProblemSize::Full { (0.03 / once).ceil() as usize } else { 1 });
    }
    let mut times = vec![vec![]; graphs.len()];
    for _ in 0..size.pick(7, 1) {
        for ((times, repeats), (_, graph, _)) in times.iter_mut().zip(&repeats).zip(&graphs) {
            times.push(timed(graph, *repeats)?);
        }
    }
    Ok(graphs.iter().zip(times).map(|((name, ..), times)| (*name, median(times))).collect())
}

/// The median of some times.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
