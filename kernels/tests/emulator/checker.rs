//! The checker reports every kind of planted bug with its line, in every order of threads.

use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DriverError, LaunchArgs, LaunchConfig, PushKernelArg,
};
use fornax_kernels::emulator;

use super::support::{PLANTED, emulated, grid, module};

struct Device {
    stream: Arc<CudaStream>,
    kernel: CudaFunction,
}

fn device(kernel: &str) -> Device {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let kernel =
        module(&context, "kernels/tests/emulator/planted.cu", PLANTED).load_function(kernel).unwrap();
    Device { stream, kernel }
}

fn line_of(bug: &str) -> String {
    let marker = format!("// BUG {bug}");
    let line = PLANTED.lines().position(|line| line.ends_with(&marker)).unwrap() + 1;
    format!("kernels/tests/emulator/planted.cu:{line}")
}

/// Launches a kernel and expects this result, and a message that contains these words and the bug's line.
fn assert_reported(
    bug: &str,
    checked: bool,
    words: &str,
    code: CUresult,
    config: LaunchConfig,
    arguments: impl Fn(&Device, &dyn Launch),
) {
    for order in [0, 1, 5] {
        let _emulated = emulated(order, checked);
        let device = device(bug);
        arguments(&device, &|launch: &mut LaunchArgs| {
            // SAFETY: the launch is invalid on purpose.
            unsafe { launch.launch(config) }.unwrap();
        });
        let result = device.stream.synchronize();
        let message =
            emulator::take_error().unwrap_or_else(|| panic!("{bug}: nothing found in order {order}"));
        assert!(message.contains(words), "{bug}, order {order}: {message}");
        assert!(message.contains(&line_of(bug)), "{bug} is at {}: {message}", line_of(bug));
        assert_eq!(result, Err(DriverError(code)), "{message}");
        device.stream.synchronize().unwrap();
    }
}

trait Launch {
    fn launch(&self, arguments: &mut LaunchArgs);
}

impl<F: Fn(&mut LaunchArgs)> Launch for F {
    fn launch(&self, arguments: &mut LaunchArgs) {
        self(arguments)
    }
}

const FAILED: CUresult = CUresult::CUDA_ERROR_LAUNCH_FAILED;
const ILLEGAL: CUresult = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;

#[test]
fn data_races_are_reported() {
    assert_reported("race_shared", true, "data race on shared memory", FAILED, grid(1, 64), |d, launch| {
        let (x, y) = (d.stream.clone_htod(&[1.0f32; 64]).unwrap(), d.stream.alloc_zeros::<f32>(64).unwrap());
        launch.launch(d.stream.launch_builder(&d.kernel).arg(&x).arg(&y));
    });
    assert_reported("race_global", true, "data race on global memory", FAILED, grid(1, 64), |d, launch| {
        let y = d.stream.alloc_zeros::<f32>(64).unwrap();
        launch.launch(d.stream.launch_builder(&d.kernel).arg(&y));
    });
    assert_reported("race_bytes", true, "data race on global memory", FAILED, grid(1, 64), |d, launch| {
        let y = d.stream.alloc_zeros::<u8>(64).unwrap();
        launch.launch(d.stream.launch_builder(&d.kernel).arg(&y));
    });
}

#[test]
fn missing_fence_between_blocks_is_reported() {
    assert_reported("race_blocks", true, "data race on global memory", FAILED, grid(4, 1), |d, launch| {
        let (partial, total) =
            (d.stream.alloc_zeros::<f32>(4).unwrap(), d.stream.alloc_zeros::<f32>(1).unwrap());
        let arrived = d.stream.alloc_zeros::<u32>(1).unwrap();
        launch.launch(d.stream.launch_builder(&d.kernel).arg(&partial).arg(&arrived).arg(&total));
    });
}

#[test]
fn barrier_divergence_is_reported() {
    for checked in [false, true] {
        for bug in ["early_return", "deadlock"] {
            assert_reported(bug, checked, "barrier divergence", FAILED, grid(1, 64), |d, launch| {
                let y = d.stream.alloc_zeros::<f32>(64).unwrap();
                launch.launch(d.stream.launch_builder(&d.kernel).arg(&y));
            });
        }
    }
}

#[test]
fn threads_at_different_barriers_are_reported() {
    let _emulated = emulated(0, false);
    let device = device("divergence");
    let y = device.stream.alloc_zeros::<f32>(64).unwrap();
    // SAFETY: the launch is invalid on purpose.
    unsafe { device.stream.launch_builder(&device.kernel).arg(&y).launch(grid(1, 64)) }.unwrap();
    assert_eq!(device.stream.synchronize(), Err(DriverError(FAILED)));
    let message = emulator::take_error().unwrap();
    assert!(
        message.contains("wait at different barriers") && message.contains(&line_of("divergence")),
        "{message}"
    );
}

#[test]
fn out_of_bounds_access_is_reported() {
    assert_reported(
        "out_of_bounds",
        true,
        "out-of-bounds write: 4 bytes at byte 40 of a buffer of 40 bytes",
        ILLEGAL,
        grid(1, 64),
        |d, launch| {
            let (x, y) = (d.stream.clone_htod(&[1.0f32]).unwrap(), d.stream.alloc_zeros::<f32>(10).unwrap());
            launch.launch(d.stream.launch_builder(&d.kernel).arg(&x).arg(&y).arg(&10i32));
        },
    );
    let config = LaunchConfig { shared_mem_bytes: 128, ..grid(1, 32) };
    assert_reported(
        "out_of_bounds_shared",
        true,
        "out-of-bounds write of dynamic shared memory",
        ILLEGAL,
        config,
        |d, launch| {
            let y = d.stream.alloc_zeros::<f32>(32).unwrap();
            launch.launch(d.stream.launch_builder(&d.kernel).arg(&y));
        },
    );
}

#[test]
fn guard_pages_catch_access_without_the_checker() {
    assert_reported("far_out_of_bounds", false, "out-of-bounds access", ILLEGAL, grid(1, 1), |d, launch| {
        let y = d.stream.alloc_zeros::<f32>(100).unwrap();
        launch.launch(d.stream.launch_builder(&d.kernel).arg(&y).arg(&200i64));
    });
}

#[test]
fn misaligned_access_is_reported() {
    let code = CUresult::CUDA_ERROR_MISALIGNED_ADDRESS;
    assert_reported(
        "misaligned",
        true,
        "misaligned access: 4 bytes past a multiple of 8",
        code,
        grid(1, 1),
        |d, launch| {
            let (x, y) =
                (d.stream.clone_htod(&[1.0f32; 4]).unwrap(), d.stream.alloc_zeros::<f32>(1).unwrap());
            launch.launch(d.stream.launch_builder(&d.kernel).arg(&x).arg(&y));
        },
    );
}

#[test]
fn uninitialised_read_is_reported() {
    assert_reported(
        "uninitialised",
        true,
        "read of uninitialised global memory",
        ILLEGAL,
        grid(1, 32),
        |d, launch| {
            // SAFETY: it is uninitialised on purpose.
            let x = unsafe { d.stream.alloc::<f32>(32) }.unwrap();
            let y = d.stream.alloc_zeros::<f32>(32).unwrap();
            launch.launch(d.stream.launch_builder(&d.kernel).arg(&x).arg(&y));
        },
    );
    assert_reported(
        "uninitialised_shared",
        true,
        "read of uninitialised shared memory",
        ILLEGAL,
        grid(1, 32),
        |d, launch| {
            let y = d.stream.alloc_zeros::<f32>(32).unwrap();
            launch.launch(d.stream.launch_builder(&d.kernel).arg(&y));
        },
    );
}

/// Other CPUs than x86-64 divide by zero without a fault.
#[cfg(target_arch = "x86_64")]
#[test]
fn division_by_zero_is_reported() {
    assert_reported("divide", false, "integer division by zero", FAILED, grid(1, 1), |d, launch| {
        let y = d.stream.alloc_zeros::<i32>(1).unwrap();
        launch.launch(d.stream.launch_builder(&d.kernel).arg(&y).arg(&0i32));
    });
}

#[test]
fn error_is_sticky_until_taken() {
    let _emulated = emulated(0, true);
    let device = device("race_global");
    let y = device.stream.alloc_zeros::<f32>(64).unwrap();
    // SAFETY: the launch is invalid on purpose.
    unsafe { device.stream.launch_builder(&device.kernel).arg(&y).launch(grid(1, 64)) }.unwrap();
    for _ in 0..2 {
        assert_eq!(device.stream.synchronize(), Err(DriverError(FAILED)));
    }
    assert_eq!(device.stream.alloc_zeros::<f32>(1).unwrap_err(), DriverError(FAILED));
    let message = emulator::take_error().unwrap();
    assert!(message.contains("kernel race_global, block (0, 0, 0), thread ("), "{message}");
    assert_eq!(device.stream.clone_dtoh(&y).unwrap().len(), 64);
}
