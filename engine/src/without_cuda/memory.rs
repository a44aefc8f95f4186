//! Device memory.
#[path = "../cuda/memory/copy.rs"]
pub(crate) mod copy;
#[path = "../cuda/memory/slice.rs"]
pub(crate) mod slice;
