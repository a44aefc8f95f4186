//! The emulated device as unmodified cudarc sees it: streams, events, copies, launches, graphs, two devices, and what the
//! checker finds.

#[path = "emulator/checker.rs"]
mod checker;
#[path = "emulator/driver.rs"]
mod driver;
#[path = "emulator/kernels.rs"]
mod kernels;
#[path = "emulator/streams.rs"]
mod streams;
#[path = "emulator/support.rs"]
mod support;
