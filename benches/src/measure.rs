//! Times the sides of a row in turn, A B A B …, so that whatever else the machine does hits all of them.
use crate::machine::busy_seconds;
use rustix::time::{ClockId, clock_gettime};
use std::ops::{AddAssign, Sub};
use std::time::Instant;

/// One run of a row on one side: does what is needed and returns the time of the part that the row is about.
pub type Work = Box<dyn FnMut() -> Time>;

/// Seconds that a piece of work took.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Time {
    /// On the clock.
    pub wall: f64,
    /// On the processors, all threads together: not lengthened by other processes, but blind to waiting.
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

/// Times `f`, dropping its result included: giving memory back is a part of the work.
pub fn time<R>(f: impl FnOnce() -> R) -> Time {
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    drop(f());
    Time { wall: wall.elapsed().as_secs_f64(), cpu: cpu_seconds() - cpu }
}

fn cpu_seconds() -> f64 {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How often the sides take turns; the result is the median over the rounds.
    pub rounds: usize,
    /// Least seconds that one side's turn repeats its work for.
    pub turn: f64,
}

/// What [`measure`] found.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The median time of one run of each side.
    pub times: Vec<Time>,
    /// How many processors other processes kept busy meanwhile, on average: above a tenth, trust the ratio more than the
    /// times, and the processor time more than the clock.
    pub others: f64,
}

/// Measures every side of a row.
pub fn measure(sides: &mut [Work], effort: Effort) -> Measured {
    let repeats: Vec<usize> = sides.iter_mut().map(|work| warm_up(work, effort.turn)).collect();
    let (started, busy, own) = (Instant::now(), busy_seconds(), cpu_seconds());
    let mut turns = vec![Vec::with_capacity(effort.rounds); sides.len()];
    for _ in 0..effort.rounds {
        for (side, work) in sides.iter_mut().enumerate() {
            let mut sum = Time::default();
            for _ in 0..repeats[side] {
                sum += work();
            }
            let n = repeats[side] as f64;
            turns[side].push(Time { wall: sum.wall / n, cpu: sum.cpu / n });
        }
    }
    let others = (busy_seconds() - busy) - (cpu_seconds() - own);
    let times = turns.iter().map(|turns| Time {
        wall: median(turns.iter().map(|t| t.wall)),
        cpu: median(turns.iter().map(|t| t.cpu)),
    });
    Measured { times: times.collect(), others: (others / started.elapsed().as_secs_f64()).max(0.0) }
}

/// Runs `work` until its time has settled, and returns how often it fits into a turn.
fn warm_up(work: &mut Work, turn: f64) -> usize {
    // The first runs pack weights, grow memory pools and choose kernels.
    for _ in 0..2 {
        work();
    }
    let started = Instant::now();
    let mut runs = 0;
    while runs == 0 || (started.elapsed().as_secs_f64() < turn && runs < 1000) {
        work();
        runs += 1;
    }
    // By what a run costs as a whole, untimed parts included.
    let cost = started.elapsed().as_secs_f64() / runs as f64;
    ((turn / cost).ceil() as usize).clamp(1, 1000)
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
    fn sides_take_turns_and_the_median_ignores_an_outlier() {
        let side = |times: Vec<f64>| -> Work {
            let mut next = times.into_iter().cycle();
            Box::new(move || Time { wall: next.next().unwrap(), cpu: 1.0 })
        };
        // Three runs of warm-up (a turn of no length is one run), then five rounds.
        let mut sides = [side(vec![0.0, 0.0, 0.0, 1.0, 2.0, 90.0, 4.0, 3.0]), side(vec![5.0; 8])];
        let found = measure(&mut sides, Effort { rounds: 5, turn: 0.0 });
        assert_eq!(found.times, [Time { wall: 3.0, cpu: 1.0 }, Time { wall: 5.0, cpu: 1.0 }]);
    }
}
