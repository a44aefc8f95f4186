//! The emulated devices of this test process, used by one test at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, LaunchConfig};
use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};
use fornax_kernels::emulator::{self, EmulatorOptions};
use fornax_kernels::library;

pub const CORRECT: &str = include_str!("correct.cu");
pub const PLANTED: &str = include_str!("planted.cu");

/// Exclusive use of the emulated devices; clears errors when dropped.
pub struct Emulated(#[expect(dead_code)] MutexGuard<'static, ()>);

pub fn emulated(order: u64, checked: bool) -> Emulated {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    emulator::load(&EmulatorOptions { devices: 2, order, checked }).unwrap();
    // Loads its builtins too, which cudarc does not.
    std::mem::forget(library::open(&["libnvrtc.so.13"]).unwrap());
    emulator::take_error();
    Emulated(guard)
}

impl Drop for Emulated {
    fn drop(&mut self) {
        emulator::take_error();
    }
}

pub fn compile(name: &str, text: &str) -> Ptx {
    let options = CompileOptions {
        name: Some(name.to_string()),
        arch: Some("sm_90"),
        options: vec!["-std=c++17".to_string(), "-DNDEBUG".to_string()],
        ..Default::default()
    };
    compile_ptx_with_opts(text, options).unwrap()
}

pub fn module(context: &Arc<CudaContext>, name: &str, text: &str) -> Arc<CudaModule> {
    context.load_module(compile(name, text)).unwrap()
}

pub fn kernel(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    module(context, "kernels/tests/emulator/correct.cu", CORRECT).load_function(name).unwrap()
}

pub fn grid(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}
