//! Coverage of long sweeps.

/// Whether long sweeps run whole (`FORNAX_TEST_SWEEP=full`). Otherwise a representative subset runs.
pub fn is_full_sweep() -> bool {
    std::env::var("FORNAX_TEST_SWEEP").is_ok_and(|sweep| sweep == "full")
}
