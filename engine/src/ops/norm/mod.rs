//! Normalisation by statistics of the input itself: layer, RMS and group norm.
pub(crate) mod cpu;
pub(crate) mod cuda;
mod group_norm;
mod normalised;
mod row_norm;

pub(super) use normalised::{NormStatistics, Normalised, to_compute_dtype};
