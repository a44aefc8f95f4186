//! Time of a function of tensors against the bandwidth of a copy.
use crate::op::KernelBytes;
use crate::{DType, Device, Result, Tensor, no_grad};
use std::fmt;
use std::time::{Duration, Instant};

/// Time of one run, and the bytes that it moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Microseconds of one run, the median over several rounds.
    pub microseconds: f64,
    /// Bytes read and written, by a declaration.
    pub bytes: KernelBytes,
    /// Bytes read and written per second, in GB (10⁹ bytes).
    pub gigabytes_per_second: f64,
    /// Fraction of the bandwidth of a copy that moves as many bytes on the same device: 1 for a kernel as fast as the copy.
    pub copy_fraction: f64,
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} us, {:.1} GB/s, {:.0} % of the copy bandwidth",
            self.microseconds,
            self.gigabytes_per_second,
            100.0 * self.copy_fraction
        )
    }
}

/// Times `f` on the device of the inputs. `bytes` are those that it reads and writes ([`Kernel::bytes`](crate::op::Kernel::bytes)). Runs
/// are queued without waiting for each other, which hides the time to launch a kernel behind kernels that take longer.
///
/// ```
/// use fornax_engine::{DType::F32, Tensor, op::Kernel, testing::time};
/// static DOUBLED: Kernel = Kernel::new("doubled").input("x", "f32[..]").output("y", "f32 like x").body("y = 2 * x;");
/// # fn main() -> fornax_engine::Result<()> {
/// let x = Tensor::zeros([1 << 12], F32, &fornax_engine::Device::Cpu)?;
/// let timing = time(|x| DOUBLED.run(&[&x[0]]), &[&x], DOUBLED.bytes(&[&x])?)?;
/// println!("{timing}");
/// # assert!(timing.microseconds > 0.0);
/// # Ok(()) }
/// ```
///
/// Errors: errors of `f`.
pub fn time(
    f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    inputs: &[&Tensor],
    bytes: KernelBytes,
) -> Result<Timing> {
    let device = inputs.first().map_or(Device::Cpu, |t| t.device());
    let moved = bytes.read + bytes.written;
    let from = Tensor::zeros([(moved / 2).max(1) as usize], DType::U8, &device)?;
    let to = from.copy()?;
    no_grad(|| {
        let inputs: Vec<Tensor> = inputs.iter().map(|t| (*t).clone()).collect();
        let seconds = seconds_per_run(&device, || f(&inputs).map(drop))?;
        let copy_seconds = seconds_per_run(&device, || to.copy_from(&from))?;
        Ok(Timing {
            microseconds: 1e6 * seconds,
            bytes,
            gigabytes_per_second: moved as f64 / seconds / 1e9,
            copy_fraction: copy_seconds / seconds,
        })
    })
}

const ROUNDS: usize = 7;

/// Time of a round, long against the resolution of the clock and the wait at its end.
const ROUND: Duration = Duration::from_millis(20);

fn seconds_per_run(device: &Device, run: impl Fn() -> Result<()>) -> Result<f64> {
    let round = |runs: usize| -> Result<f64> {
        device.synchronize()?;
        let start = Instant::now();
        (0..runs).try_for_each(|_| run())?;
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64() / runs as f64)
    };
    // The first run compiles; the second one tells how many make a round.
    round(1)?;
    let runs = ((ROUND.as_secs_f64() / round(1)?) as usize).clamp(1, 10_000);
    let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| round(runs)).collect::<Result<_>>()?;
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[ROUNDS / 2])
}
