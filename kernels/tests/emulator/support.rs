//! One emulated device for all tests of this process, used by one test at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, LaunchConfig};
use cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use fornax_kernels::emulator::{self, EmulatorOptions};

pub const CORRECT: &str = include_str!("correct.cu");
pub const PLANTED: &str = include_str!("planted.cu");

/// The emulated device, for one test. Leaves it without errors.
pub struct Emulated(#[expect(dead_code)] MutexGuard<'static, ()>);

pub fn emulated(order: u64, checked: bool) -> Emulated {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    emulator::load(&EmulatorOptions { devices: 2, order, checked }).unwrap();
    emulator::take_error();
    Emulated(turn)
}

impl Drop for Emulated {
    fn drop(&mut self) {
        emulator::take_error();
    }
}

pub fn module(context: &Arc<CudaContext>, name: &str, text: &str) -> Arc<CudaModule> {
    let options = CompileOptions {
        name: Some(name.to_string()),
        arch: Some("sm_90"),
        options: vec!["-std=c++17".to_string(), "-DNDEBUG".to_string()],
        ..Default::default()
    };
    let image = compile_ptx_with_opts(text, options).unwrap();
    context.load_module(image).unwrap()
}

pub fn kernel(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    module(context, "kernels/tests/emulator/correct.cu", CORRECT).load_function(name).unwrap()
}

pub fn grid(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}
