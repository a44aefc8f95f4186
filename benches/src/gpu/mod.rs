//! Rows for GPUs: fused operations compared with compositions of single operations, and training steps. `scripts/gpu-suite` also runs them
//! in PyTorch and writes a table of both.
pub mod operations;
pub mod steps;

use fornax_engine::cuda::CudaGraph;
use fornax_engine::{Device, Result};
use std::time::Instant;

/// Row of the GPU benchmarks: the same computation in several variants.
pub struct GpuRow {
    /// Name, the same as in `scripts/gpu/torch_rows.py`.
    pub name: String,
    /// Minimum number of bytes that the computation moves; 0 if bandwidth does not bound it.
    pub bytes: usize,
    /// Variants by name.
    pub variants: Vec<(&'static str, Variant)>,
}

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
    pub(crate) fn pick(self, full: usize, smoke: usize) -> usize {
        if self == ProblemSize::Full { full } else { smoke }
    }
}

/// Seconds per run of each variant: medians over interleaved rounds. With `capture`, each variant is captured as a CUDA graph and replayed.
pub fn measure(row: &mut GpuRow, device: &Device, capture: bool, size: ProblemSize) -> Result<Vec<f64>> {
    let mut runs: Vec<Box<dyn FnMut() -> Result<()> + '_>> = vec![];
    for (_, variant) in &mut row.variants {
        // Compiles kernels, plans convolutions, fills the memory pool.
        (0..2).try_for_each(|_| variant())?;
        device.synchronize()?;
        if capture {
            let graph = CudaGraph::capture(device, &mut *variant)?;
            runs.push(Box::new(move || graph.replay()));
        } else {
            runs.push(Box::new(variant));
        }
    }
    let variants = runs.len();
    let mut timed = |variant: usize, repeats: usize| -> Result<f64> {
        let started = Instant::now();
        (0..repeats).try_for_each(|_| runs[variant]())?;
        device.synchronize()?;
        Ok(started.elapsed().as_secs_f64() / repeats as f64)
    };
    let mut repeats: Vec<usize> = vec![];
    for variant in 0..variants {
        let once = timed(variant, 1)?.max(1e-7);
        repeats.push(if size == ProblemSize::Full { (0.03 / once).ceil() as usize } else { 1 });
    }
    let rounds = size.pick(7, 1);
    let mut times = vec![vec![]; repeats.len()];
    for _ in 0..rounds {
        for (variant, repeats) in repeats.iter().enumerate() {
            times[variant].push(timed(variant, *repeats)?);
        }
    }
    Ok(times.into_iter().map(median).collect())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
