//! Reductions on the CPU.
mod columns;
pub(crate) mod lines;
pub(crate) mod softmax;
pub(crate) mod sum;
