//! The joined data gradients in checked mode: the kernels have no data race, no divergent barrier, and no access that is out of bounds or to
//! uninitialised memory.
//!
//! A separate process, since kernels are compiled with or without checks when they are first used.
#[path = "joined_gradients/block.rs"]
mod block;

use fornax_engine::Result;
use fornax_kernels::emulator::{self, EmulatorOptions};

#[test]
fn joined_data_gradients_pass_the_checks() -> Result<()> {
    emulator::load(&EmulatorOptions { checked: true, ..EmulatorOptions::default() })
        .expect("the emulated device");
    block::check_joined_gradients()
}
