//! Coverage of long sweeps.

/// Whether long sweeps run whole (`FORNAX_TEST_SWEEP=full`). Otherwise a representative subset runs.
#[allow(dead_code)]
pub fn is_full_sweep() -> bool {
    std::env::var("FORNAX_TEST_SWEEP").is_ok_and(|sweep| sweep == "full")
}

/// Whether the reliability sweeps run whole (`FORNAX_TEST_SWEEP=reliability`): hundreds of killed runs, thousands of resumed ones, every
/// truncation of a checkpoint.
#[allow(dead_code)]
pub fn is_reliability_sweep() -> bool {
    std::env::var("FORNAX_TEST_SWEEP").is_ok_and(|sweep| sweep == "reliability")
}

/// Whether a sweep runs whole that is short enough for `FORNAX_TEST_SWEEP=full` and belongs to the reliability sweeps.
#[allow(dead_code)]
pub fn is_whole_sweep() -> bool {
    is_full_sweep() || is_reliability_sweep()
}
