//! The table of cases on the emulated device in checked mode: no kernel races, diverges at a barrier, or touches
//! memory that it must not; and nothing that a case allocated is left when its tensors are gone.
//!
//! A process of its own: kernels are compiled with or without checks when they are first used.
use fornax_engine::{DType, Device};
use fornax_kernels::emulator::{self, EmulatorOptions};
use fornax_tests::cases::all;
use fornax_tests::parity::{differences, report};

#[test]
fn every_case_is_clean() {
    emulator::load(&EmulatorOptions { checked: true, ..EmulatorOptions::default() })
        .expect("the emulated device");
    let device = Device::Cuda(0);
    let of_size = |large: bool| all().into_iter().filter(move |case| case.large == large).collect::<Vec<_>>();
    let small = of_size(false);
    report(differences(small.iter(), &[DType::F32, DType::F16, DType::BF16], &device), 200);
    // Checks are slow: the dtype with the widest packs tells of the edges of large shapes.
    report(differences(of_size(true).iter(), &[DType::F16], &device), 50);
    let before = emulator::live_bytes();
    report(differences(small.iter(), &[DType::F32], &device), 60);
    assert_eq!(emulator::live_bytes(), before, "{:?}", emulator::leaks());
}
