//! The table of cases on a CUDA device against the CPU in f64: outputs and gradients, in f32, f16 and bf16; on the emulated device
//! in three orders of its threads (`devices_checked` runs it with its memory checked).
//!
//! `FORNAX_TEST_DEVICES`, a list of `cpu`, `emulated` and `cuda:N`, chooses devices; the default is the emulated one.
use fornax_engine::{DType, Device};
use fornax_kernels::emulator::{self, Options};
use fornax_tests::cases::all;
use fornax_tests::parity::{differences, outcome, report};
use std::sync::{Mutex, MutexGuard};

/// The driver that this process uses is chosen once, and its settings are of the whole process: one test at a time.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(|e| e.into_inner())
}

/// The devices to test. The emulated one takes the driver's place, so it is not tested beside a real one.
fn devices() -> Vec<Device> {
    let names = std::env::var("FORNAX_TEST_DEVICES").unwrap_or_else(|_| "emulated".into());
    let (emulated, real) = (names.contains("emulated"), names.contains("cuda"));
    assert!(!(emulated && real), "FORNAX_TEST_DEVICES={names}: test emulated and cuda:N in two runs");
    names
        .split(',')
        .filter(|name| *name != "cpu")
        .map(|name| match name.strip_prefix("cuda:") {
            Some(number) => Device::Cuda(number.parse().expect("cuda:N")),
            None => {
                assert_eq!(name, "emulated", "FORNAX_TEST_DEVICES={names}: no such device");
                emulator::load(&Options { devices: 1, ..Options::default() }).expect("the emulated device");
                Device::Cuda(0)
            }
        })
        .collect()
}

#[test]
fn every_case_matches_the_cpu() {
    let _alone = one_at_a_time();
    for device in devices() {
        report(differences(all().iter(), &[DType::F32, DType::F16, DType::BF16], &device), 300);
    }
}

#[test]
fn the_order_of_threads_changes_no_bit() {
    let _alone = one_at_a_time();
    for device in devices().into_iter().filter(|_| emulator::is_loaded()) {
        for case in all().iter().filter(|case| !case.large) {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let of_order = |order: u64| {
                    emulator::set_order(order).expect("the emulated device");
                    outcome(case, dtype, dtype, &device)
                        .unwrap_or_else(|e| panic!("{} in {dtype}, order {order}: {e}", case.name()))
                };
                let ascending = of_order(0);
                for order in [1, 7] {
                    assert_eq!(ascending, of_order(order), "{} in {dtype}, order {order}", case.name());
                }
            }
        }
        emulator::set_order(0).expect("the emulated device");
    }
}
