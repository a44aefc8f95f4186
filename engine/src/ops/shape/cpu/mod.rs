//! Copies with other shapes on the CPU.
pub(crate) mod copy_block;
pub(crate) mod expand;
pub(crate) mod permute;
