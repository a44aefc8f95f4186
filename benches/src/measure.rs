//! Interleaved timing of the sides of a row, A B A B …, so that other load on the machine affects all of them.
use crate::machine::busy_cpu_seconds;
use rustix::time::{ClockId, clock_gettime};
use std::ops::{AddAssign, Sub};
use std::time::Instant;

/// Runs a row once on one side and returns the time of the part that the row measures.
pub type TimedRun = Box<dyn FnMut() -> Time>;

/// Duration in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Time {
    /// Wall-clock time.
    pub wall: f64,
    /// CPU time of all threads: excludes other processes, and waiting.
    pub cpu: f64,
}

impl AddAssign for Time {
    fn add_assign(&mut self, other: Time) {
        self.wall += other.wall;
        self.cpu += other.cpu;
    }
}

impl Sub for Time {
    type Output = Time;
    fn sub(self, other: Time) -> Time {
        Time { wall: self.wall - other.wall, cpu: self.cpu - other.cpu }
    }
}

/// Times `f` and the drop of its result, since freeing memory is part of the work.
pub fn time<R>(f: impl FnOnce() -> R) -> Time {
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    drop(f());
    Time { wall: wall.elapsed().as_secs_f64(), cpu: cpu_seconds() - cpu }
}

fn cpu_seconds() -> f64 {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// Rounds and duration of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct MeasureOptions {
    /// Number of interleaved rounds; the result is the median over the rounds.
    pub rounds: usize,
    /// Minimum seconds of each side per round; its run is repeated accordingly.
    pub min_seconds: f64,
}

/// Result of [`measure`].
#[derive(Clone, Debug)]
pub struct Measurement {
    /// Median time of a run of each side.
    pub times: Vec<Time>,
    /// Average number of CPUs that other processes used during the measurement. Above 0.1 the ratio is more reliable than the times, and
    /// CPU time more reliable than wall-clock time.
    pub other_load: f64,
}

/// Times every side of a row, interleaved.
pub fn measure(sides: &mut [TimedRun], options: MeasureOptions) -> Measurement {
    let repeats: Vec<usize> = sides.iter_mut().map(|run| warm_up(run, options.min_seconds)).collect();
    let (started, busy, own) = (Instant::now(), busy_cpu_seconds(), cpu_seconds());
    let mut rounds = vec![Vec::with_capacity(options.rounds); sides.len()];
    for _ in 0..options.rounds {
        for (side, run) in sides.iter_mut().enumerate() {
            let mut sum = Time::default();
            for _ in 0..repeats[side] {
                sum += run();
            }
            let n = repeats[side] as f64;
            rounds[side].push(Time { wall: sum.wall / n, cpu: sum.cpu / n });
        }
    }
    let other_load = (busy_cpu_seconds() - busy) - (cpu_seconds() - own);
    let times = rounds.iter().map(|rounds| Time {
        wall: median(rounds.iter().map(|t| t.wall)),
        cpu: median(rounds.iter().map(|t| t.cpu)),
    });
    Measurement {
        times: times.collect(),
        other_load: (other_load / started.elapsed().as_secs_f64()).max(0.0),
    }
}

/// Warms up a side and returns its number of runs per round.
fn warm_up(run: &mut TimedRun, min_seconds: f64) -> usize {
    // The first runs pack weights, grow memory pools and choose kernels.
    for _ in 0..2 {
        run();
    }
    let started = Instant::now();
    let mut runs = 0;
    while runs == 0 || (started.elapsed().as_secs_f64() < min_seconds && runs < 1000) {
        run();
        runs += 1;
    }
    // Includes the untimed parts of a run.
    let seconds_per_run = started.elapsed().as_secs_f64() / runs as f64;
    ((min_seconds / seconds_per_run).ceil() as usize).clamp(1, 1000)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let mid = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[mid] } else { (sorted[mid - 1] + sorted[mid]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_over_interleaved_rounds_ignores_outlier() {
        let side = |times: Vec<f64>| -> TimedRun {
            let mut next = times.into_iter().cycle();
            Box::new(move || Time { wall: next.next().unwrap(), cpu: 1.0 })
        };
        // Three warm-up runs, then five rounds of one run each.
        let mut sides = [side(vec![0.0, 0.0, 0.0, 1.0, 2.0, 90.0, 4.0, 3.0]), side(vec![5.0; 8])];
        let found = measure(&mut sides, MeasureOptions { rounds: 5, min_seconds: 0.0 });
        assert_eq!(found.times, [Time { wall: 3.0, cpu: 1.0 }, Time { wall: 5.0, cpu: 1.0 }]);
    }
}
