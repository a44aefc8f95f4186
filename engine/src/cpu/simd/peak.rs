//! FMA loop in registers, whose time gives a CPU's peak.
use super::{level, simd_kernel};

/// Independent chains, which hide the latency of an FMA on every level: at least eight, with two registers for operands.
const CHAINS: usize = 12;

/// Computes f32 FMAs in registers at the level in use, and returns their number. Divided by the time of the call, it is the peak of one thread.
pub fn run_fmas(iterations: usize) -> u64 {
    // SAFETY: the kernel accesses no memory.
    std::hint::black_box(unsafe { chains(iterations) });
    (iterations * CHAINS * level().lanes()) as u64
}

simd_kernel! {
    /// Sum of the chains' results, so the compiler keeps every chain.
    fn chains<S>(iterations: usize) -> f32 {
        let (factor, term) = (S::splat(0.999), S::splat(1e-3));
        let mut values = [S::splat(0.0); CHAINS];
        for _ in 0..iterations {
            for value in &mut values {
                *value = S::fma(*value, factor, term);
            }
        }
        let mut sum = 0.0;
        for value in values {
            sum += S::sum(value);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_of_fmas_is_iterations_times_chains_times_lanes() {
        let _guard = super::super::lock_level();
        assert_eq!(run_fmas(10), (10 * CHAINS * level().lanes()) as u64);
    }

    #[test]
    fn every_lane_of_every_chain_computes_every_iteration() {
        // Two iterations from 0: 1e-3, then 1e-3 * 0.999 + 1e-3.
        let expected = 1.999e-3 * (CHAINS * level().lanes()) as f32;
        // SAFETY: the kernel accesses no memory.
        let sum = unsafe { chains(2) };
        assert!((sum - expected).abs() < 1e-6 * expected.abs().max(1.0), "{sum} is not {expected}");
    }
}
