//! The emulated device, used through unmodified cudarc: streams, events, copies, launches, graphs, two devices, NCCL, and the checker's
//! errors.

#[path = "emulator/arguments.rs"]
mod arguments;
#[path = "emulator/checker.rs"]
mod checker;
#[path = "emulator/driver.rs"]
mod driver;
#[path = "emulator/kernels.rs"]
mod kernels;
#[path = "emulator/nccl.rs"]
mod nccl;
#[path = "emulator/streams.rs"]
mod streams;
#[path = "emulator/suballocations.rs"]
mod suballocations;
#[path = "emulator/support.rs"]
mod support;
