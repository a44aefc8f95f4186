//! Lines that show a runner of programs how far a program is.
//!
//! Test programs print them with `FORNAX_TEST_HEARTBEAT`.
use fornax_engine::Device;
use fornax_engine::cuda::{cudnn, launch_count};
use fornax_kernels::compile_counts;
use std::io::Write;
use std::sync::Once;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(10);

/// Calls [`start`] at the first call, if `FORNAX_TEST_HEARTBEAT` is set.
pub fn start_if_wanted(device: Device) {
    static START: Once = Once::new();
    if std::env::var_os("FORNAX_TEST_HEARTBEAT").is_some() {
        START.call_once(|| start(device));
    }
}

/// Prints a JSON line every 10 seconds until the process ends: seconds, kernels launched, images compiled and loaded from the cache, and
/// convolution plans tried. A line that equals the one before, apart from the seconds, shows no progress.
pub fn start(device: Device) {
    std::thread::spawn(move || {
        let started = Instant::now();
        loop {
            std::thread::sleep(INTERVAL);
            let (images, plans) = (compile_counts(), cudnn::plan_counts());
            // Not by println, which a test captures. An empty line ends the line of a test in progress.
            let _ = writeln!(
                std::io::stdout(),
                "\n{{\"heartbeat\": {}, \"launches\": {}, \"compiled\": {}, \"cached\": {}, \"plans\": {}}}",
                started.elapsed().as_secs(),
                launch_count(device),
                images.compiled,
                images.cached,
                plans.ran + plans.rejected,
            );
        }
    });
}
