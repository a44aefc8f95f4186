//! Launchers of reductions.
pub(crate) mod lines;
pub(crate) mod softmax;
pub(crate) mod sum;
