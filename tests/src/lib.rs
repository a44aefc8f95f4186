//! Shared parts of the whole-system tests: the golden files, the table of cases, and comparisons between devices and dtypes.
pub mod cases;
pub mod golden;
pub mod heartbeat;
pub mod model_step;
pub mod parity;
pub mod second_order;
pub mod sweep;
pub mod test_devices;
