//! NVRTC and its builtins on the emulated device, in a process that has not opened them yet.
#![cfg(unix)]
use cudarc::nvrtc::compile_ptx;
use fornax_kernels::emulator::{self, EmulatorOptions};
use fornax_kernels::library;

#[test]
fn kernels_compile_only_after_the_builtins_are_loaded() {
    emulator::load(&EmulatorOptions::default()).expect("g++ is installed");
    let text = "extern \"C\" __global__ void nothing() {}";
    // cudarc opens NVRTC without its builtins.
    let error = format!("{:?}", compile_ptx(text).expect_err("a planted violation"));
    assert!(error.contains("failed to open libnvrtc-builtins"), "{error}");
    let opened = library::open(&["libnvrtc.so.13", "libnvrtc.so.12"]).expect("the emulated NVRTC");
    compile_ptx(text).expect("the builtins were opened with NVRTC");
    drop(opened);
}
