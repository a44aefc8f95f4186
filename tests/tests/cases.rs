//! The table of cases on a CUDA device against the CPU in f64: outputs and gradients, in f32, f16 and bf16. One test per operation:
//! `cargo test -p fornax-tests --test cases [-- OPERATION]`.
//!
//! `FORNAX_TEST_DEVICES`, a list of `cpu`, `emulated` and `cuda:N`, selects the devices; the default is the emulated one.
use fornax_tests::cases::operations;
use fornax_tests::parity::{compile_modules_in_background, differences};
use fornax_tests::sweep;
use fornax_tests::test_devices::devices;
use libtest_mimic::{Arguments, Trial};

fn main() {
    let args = Arguments::from_args();
    if !args.list && args.filter.is_none() {
        drop(devices());
        compile_modules_in_background();
    }
    let trials = operations(&sweep::cases()).into_iter().map(|op| {
        Trial::test(op, move || {
            let cases: Vec<_> = sweep::cases().into_iter().filter(|case| case.op == op).collect();
            for device in devices() {
                // An offset by operation, so that those with one case do not all run in the first dtype.
                let dtypes = |(position, case)| (case, sweep::dtypes(position + op.len()));
                let (compared, failures) = differences(cases.iter().enumerate().map(dtypes), &device);
                if compared == 0 || !failures.is_empty() {
                    let count = failures.len();
                    return Err(format!("{count} of {compared} on {device}:\n{}", failures.join("\n")).into());
                }
            }
            Ok(())
        })
    });
    libtest_mimic::run(&args, trials.collect()).exit();
}
