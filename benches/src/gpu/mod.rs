//! What is measured on a GPU: fused operations beside their compositions, and training steps. `scripts/gpu-suite` runs the same rows
//! through PyTorch in the same minutes, and makes one table of both.
pub mod operations;
pub mod steps;

use fornax_engine::cuda::CudaGraph;
use fornax_engine::{Device, Result};
use std::time::Instant;

/// One row: the same work done in several ways.
pub struct Row {
    /// Its name, which PyTorch's side uses too.
    pub name: String,
    /// The fewest bytes that the work moves; 0 where that says nothing.
    pub bytes: usize,
    /// What a time is divided into for a speed, in units of `unit`: images, say.
    pub items: usize,
    /// The ways, by name.
    pub ways: Vec<(&'static str, Way)>,
}

/// Does the work once on a device, without waiting for it.
pub type Way = Box<dyn FnMut() -> Result<()>>;

/// Sizes to measure with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Those of a training run on a large GPU.
    Full,
    /// So small that the emulated device runs every row: it shows that the suite works, and no speed.
    Smoke,
}

impl Scale {
    pub(crate) fn of(self, full: usize, smoke: usize) -> usize {
        if self == Scale::Full { full } else { smoke }
    }
}

/// Seconds that one run of each way takes: the median of rounds in which all ways take turns.
pub fn measure(row: &mut Row, device: &Device, recorded: bool, scale: Scale) -> Result<Vec<f64>> {
    let mut turns: Vec<Box<dyn FnMut() -> Result<()> + '_>> = vec![];
    for (_, way) in &mut row.ways {
        // Compiles kernels, plans convolutions, fills the memory pool.
        (0..2).try_for_each(|_| way())?;
        device.synchronize()?;
        if recorded {
            let graph = CudaGraph::capture(device, &mut *way)?;
            turns.push(Box::new(move || graph.replay()));
        } else {
            turns.push(Box::new(way));
        }
    }
    let ways = turns.len();
    let mut timed = |turn: usize, runs: usize| -> Result<f64> {
        let started = Instant::now();
        (0..runs).try_for_each(|_| turns[turn]())?;
        device.synchronize()?;
        Ok(started.elapsed().as_secs_f64() / runs as f64)
    };
    let mut runs: Vec<usize> = vec![];
    for turn in 0..ways {
        let once = timed(turn, 1)?.max(1e-7);
        runs.push(if scale == Scale::Full { (0.03 / once).ceil() as usize } else { 1 });
    }
    let rounds = scale.of(7, 1);
    let mut times = vec![vec![]; runs.len()];
    for _ in 0..rounds {
        for (turn, runs) in runs.iter().enumerate() {
            times[turn].push(timed(turn, *runs)?);
        }
    }
    Ok(times.into_iter().map(median).collect())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
