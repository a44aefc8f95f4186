//! The table of cases on the emulated device in checked mode: no kernel has a data race, a divergent barrier or an out-of-bounds access;
//! and no case leaks device memory.
//!
//! A separate process, since kernels are compiled with or without checks when they are first used.
use fornax_engine::{DType, Device};
use fornax_kernels::emulator::{self, EmulatorOptions};
use fornax_tests::cases::all;
use fornax_tests::parity::{compile_modules_in_background, differences, report};
use fornax_tests::sweep;

#[test]
fn checked_mode_finds_no_error_and_no_leak() {
    emulator::load(&EmulatorOptions { checked: true, ..EmulatorOptions::default() })
        .expect("the emulated device");
    compile_modules_in_background();
    let device = Device::Cuda(0);
    let of_size = |large: bool| all().into_iter().filter(move |case| case.large == large).collect::<Vec<_>>();
    let small = of_size(false);
    report(differences(small.iter(), sweep::dtypes, &device), if sweep::is_full() { 200 } else { 66 });
    // Checked mode is slow: f16 has the widest vectors, and so covers the edges of large shapes.
    let large = |position: usize| -> &'static [DType] {
        if sweep::is_full() || position.is_multiple_of(6) { &[DType::F16] } else { &[] }
    };
    report(differences(of_size(true).iter(), large, &device), if sweep::is_full() { 50 } else { 8 });
    let before = emulator::live_bytes();
    let step = if sweep::is_full() { 1 } else { 3 };
    report(differences(small.iter().step_by(step), sweep::dtypes, &device), 20);
    assert_eq!(emulator::live_bytes(), before, "{:?}", emulator::leaks());
}
