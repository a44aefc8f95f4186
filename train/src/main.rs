//! The `fornax` command.
#![forbid(unsafe_code)]
fn main() {}
