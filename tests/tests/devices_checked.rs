//! The table of cases on the emulated device in checked mode, one test per operation: no kernel has a data race, a divergent barrier or an
//! out-of-bounds access. Then no case leaks device memory.
//!
//! A separate process, since kernels are compiled with or without checks when they are first used.
use fornax_engine::{DType, Device};
use fornax_kernels::emulator::{self, EmulatorOptions};
use fornax_tests::cases::{Case, all, operations};
use fornax_tests::parity::{compile_modules_in_background, differences, report};
use fornax_tests::sweep;
use libtest_mimic::{Arguments, Failed, Trial};

const GPU: Device = Device::Cuda(0);

fn main() {
    let args = Arguments::from_args();
    emulator::load(&EmulatorOptions { checked: true, ..EmulatorOptions::default() })
        .expect("the emulated device");
    if !args.list && args.filter.is_none() && sweep::is_full() {
        compile_modules_in_background();
    }
    let (small, large) = (table(false), table(true));
    let comparisons = |chosen: &[CheckedCase]| chosen.iter().map(|(_, dtypes)| dtypes.len()).sum::<usize>();
    assert!(comparisons(&small) >= if sweep::is_full() { 200 } else { 66 });
    assert!(comparisons(&large) >= if sweep::is_full() { 50 } else { 8 });
    let trials = chosen_operations().into_iter().map(|op| Trial::test(op, move || check(op)));
    libtest_mimic::run(&args, trials.collect()).exit_if_failed();
    // It counts the memory of all threads, so it runs alone.
    libtest_mimic::run(&args, vec![Trial::test("no_case_leaks_device_memory", no_leak)]).exit();
}

/// Operations that are checked.
fn chosen_operations() -> Vec<&'static str> {
    let cases: Vec<Case> = [table(false), table(true)].into_iter().flatten().map(|(case, _)| case).collect();
    sweep::operations(operations(&cases))
}

/// A case, and the dtypes in which it runs.
type CheckedCase = (Case, &'static [DType]);

/// The small or the large rows of the table that run, with their dtypes.
fn table(large: bool) -> Vec<CheckedCase> {
    // Checked mode is slow: f16 has the widest vectors, and so covers the edges of large shapes.
    let dtypes = |position: usize| -> &'static [DType] {
        match large {
            false => sweep::dtypes(position),
            true if sweep::is_full() || position.is_multiple_of(6) => &[DType::F16],
            true => &[],
        }
    };
    let rows = all().into_iter().filter(|case| case.large == large).enumerate();
    rows.map(|(position, case)| (case, dtypes(position))).filter(|(_, dtypes)| !dtypes.is_empty()).collect()
}

fn check(op: &str) -> Result<(), Failed> {
    let cases: Vec<_> =
        [table(false), table(true)].into_iter().flatten().filter(|(case, _)| case.op == op).collect();
    let (compared, failures) = differences(cases.iter().map(|(case, dtypes)| (case, *dtypes)), &GPU);
    match failures.len() {
        0 => Ok(()),
        count => Err(format!("{count} of {compared}:\n{}", failures.join("\n")).into()),
    }
}

fn no_leak() -> Result<(), Failed> {
    let chosen = chosen_operations();
    let cases: Vec<_> = table(false).into_iter().filter(|(case, _)| chosen.contains(&case.op)).collect();
    let run = || report(differences(cases.iter().map(|(case, dtypes)| (case, *dtypes)), &GPU), 20);
    // The first run fills caches.
    run();
    let before = emulator::live_bytes();
    run();
    match emulator::live_bytes() {
        after if after == before => Ok(()),
        after => Err(format!("{before} bytes before, {after} after: {:?}", emulator::leaks()).into()),
    }
}
