//! Coverage of long sweeps: whole with `FORNAX_TEST_SWEEP=full`, otherwise a representative subset.
use crate::cases::{Case, all};
use fornax_engine::DType;

/// The dtypes of CUDA kernels.
pub const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Whether long sweeps run whole.
pub fn is_full() -> bool {
    std::env::var("FORNAX_TEST_SWEEP").is_ok_and(|sweep| sweep == "full")
}

/// The dtypes in which a sweep runs the case at this position: all in a full sweep, otherwise one, which rotates.
pub fn dtypes(position: usize) -> &'static [DType] {
    let one = position % DTYPES.len();
    if is_full() { &DTYPES } else { &DTYPES[one..=one] }
}

/// Operations of a sweep over kernels that take long to compile: all in a full sweep, otherwise a quarter.
pub fn operations(all: Vec<&'static str>) -> Vec<&'static str> {
    all.into_iter()
        .enumerate()
        .filter(|(position, _)| is_full() || position.is_multiple_of(4))
        .map(|(_, op)| op)
        .collect()
}

/// Each case with the dtypes in which a sweep runs it.
pub fn with_dtypes(cases: &[Case]) -> impl Iterator<Item = (&Case, &'static [DType])> {
    cases.iter().enumerate().map(|(position, case)| (case, dtypes(position)))
}

/// The table of cases: whole in a full sweep, otherwise all small cases and a third of the large ones.
pub fn cases() -> Vec<Case> {
    let chosen = |(position, case): &(usize, Case)| is_full() || !case.large || position.is_multiple_of(3);
    all().into_iter().enumerate().filter(chosen).map(|(_, case)| case).collect()
}
