//! Normalisation on the CPU.
mod group_norm;
mod row_norm;

pub(crate) use group_norm::GroupNorm;
pub(crate) use row_norm::RowNorm;
