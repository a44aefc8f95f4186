//! Cross entropies on the CPU.
pub(crate) mod cross_entropy;
pub(crate) mod soft_cross_entropy;
