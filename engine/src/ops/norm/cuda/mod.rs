//! Launchers of normalisation.
pub(crate) mod group_norm;
pub(crate) mod row_norm;
