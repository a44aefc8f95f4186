//! Correct kernels give the same results in every order of threads, checked or not.

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use fornax_kernels::emulator;

use super::support::{emulated, grid, kernel};

const ORDERS: [u64; 4] = [0, 1, 2, 77];

/// Runs a test in every order, checked and not, and asserts that all results are equal.
fn in_every_order<R: PartialEq + std::fmt::Debug>(run: impl Fn() -> R) -> R {
    let mut results = Vec::new();
    for checked in [false, true] {
        for order in ORDERS {
            let _emulated = emulated(order, checked);
            results.push(run());
            assert_eq!(emulator::take_error(), None);
        }
    }
    assert!(results.iter().all(|result| *result == results[0]), "{results:?}");
    results.swap_remove(0)
}

fn floats(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1000) as f32 / 37.0 - 11.0).collect()
}

#[test]
fn block_sums_are_correct() {
    let x = floats(10_000);
    let sums = in_every_order(|| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let (input, mut sums) = (stream.clone_htod(&x).unwrap(), stream.alloc_zeros::<f32>(40).unwrap());
        let kernel = kernel(&context, "block_sums_f32");
        let n = x.len() as i32;
        // SAFETY: the arguments match the kernel, and the buffers are large enough.
        unsafe { stream.launch_builder(&kernel).arg(&input).arg(&mut sums).arg(&n).launch(grid(40, 256)) }
            .unwrap();
        stream.clone_dtoh(&sums).unwrap()
    });
    for (block, sum) in sums.iter().enumerate() {
        let expected: f32 = x.iter().skip(block * 256).take(256).sum();
        assert!((sum - expected).abs() < 1e-2, "block {block}: {sum} and {expected}");
    }
}

#[test]
fn last_block_sums_partial_results() {
    let x = floats(20_000);
    let total = in_every_order(|| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let input = stream.clone_htod(&x).unwrap();
        // SAFETY: `partial` is written before it is read.
        let mut partial = unsafe { stream.alloc::<f32>(79) }.unwrap();
        let mut arrived = stream.alloc_zeros::<u32>(1).unwrap();
        let mut total = stream.alloc_zeros::<f32>(1).unwrap();
        let kernel = kernel(&context, "total_f32");
        let n = x.len() as i32;
        for _ in 0..2 {
            let mut launch = stream.launch_builder(&kernel);
            launch.arg(&input).arg(&mut partial).arg(&mut arrived).arg(&mut total).arg(&n);
            // SAFETY: the arguments match the kernel, and the buffers are large enough.
            unsafe { launch.launch(grid(79, 256)) }.unwrap();
        }
        stream.clone_dtoh(&total).unwrap()[0]
    });
    let expected: f64 = x.iter().map(|&v| f64::from(v)).sum();
    assert!((f64::from(total) - expected).abs() < 1e-1, "{total} and {expected}");
}

#[test]
fn empty_kernels_are_checked_and_compute_nothing() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let numbers: Vec<i64> = (0..300).collect();
    let mut x = stream.clone_htod(&numbers).unwrap();
    let kernel = kernel(&context, "reverse_i64");
    let mut launch = |shared_mem_bytes| {
        // SAFETY: the argument matches the kernel, and the buffer is large enough.
        unsafe {
            let config = LaunchConfig { shared_mem_bytes, ..grid(3, 100) };
            stream.launch_builder(&kernel).arg(&mut x).launch(config)
        }
        .map(|_| stream.clone_dtoh(&x).unwrap())
    };
    emulator::set_empty_kernels(true).unwrap();
    assert_eq!(launch(800).unwrap(), numbers);
    assert!(launch(1 << 20).is_err(), "more shared memory than there is");
    emulator::set_empty_kernels(false).unwrap();
    assert_eq!(launch(800).unwrap()[..3], [99, 98, 97]);
}

#[test]
fn dynamic_shared_memory_reverses_blocks() {
    let reversed = in_every_order(|| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let mut x = stream.clone_htod(&(0..300i64).collect::<Vec<_>>()).unwrap();
        let kernel = kernel(&context, "reverse_i64");
        let config = LaunchConfig { shared_mem_bytes: 800, ..grid(3, 100) };
        // SAFETY: as above.
        unsafe { stream.launch_builder(&kernel).arg(&mut x).launch(config) }.unwrap();
        stream.clone_dtoh(&x).unwrap()
    });
    assert_eq!(reversed[0], 99);
    assert_eq!(reversed[299], 200);
}

#[test]
fn warp_votes_and_masks_are_correct() {
    let words = in_every_order(|| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let mut out = stream.alloc_zeros::<i32>(96).unwrap();
        // SAFETY: as above.
        unsafe { stream.launch_builder(&kernel(&context, "votes_i32")).arg(&mut out).launch(grid(1, 96)) }
            .unwrap();
        stream.clone_dtoh(&out).unwrap()
    });
    for (thread, word) in words.iter().enumerate() {
        let lane = thread as i32 % 32;
        let thirds = if lane < 16 { 6 } else { 5 };
        let expected = thirds | 1 << 8 | 48 << 10 | (lane ^ 1) << 20;
        assert_eq!(*word, expected, "thread {thread}");
    }
}

#[test]
fn integer_atomics_count_correctly() {
    let counts = in_every_order(|| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let x: Vec<u8> = (0..50_000u32).map(|i| (i * i % 251) as u8).collect();
        let (input, mut counts) = (stream.clone_htod(&x).unwrap(), stream.alloc_zeros::<i32>(16).unwrap());
        let kernel = kernel(&context, "histogram_i32");
        let n = x.len() as i32;
        // SAFETY: as above.
        unsafe { stream.launch_builder(&kernel).arg(&input).arg(&mut counts).arg(&n).launch(grid(7, 128)) }
            .unwrap();
        stream.clone_dtoh(&counts).unwrap()
    });
    assert_eq!(counts.iter().sum::<i32>(), 50_000);
}

#[test]
fn traffic_is_counted_in_checked_mode() {
    let _emulated = emulated(0, true);
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let (x, mut y) = (stream.clone_htod(&[1.0f32; 1000]).unwrap(), stream.alloc_zeros::<f32>(1000).unwrap());
    let kernel = kernel(&context, "scale_f32");
    let before = emulator::traffic("scale_f32").map_or((0, 0), |t| (t.loads, t.stores));
    // SAFETY: as above.
    unsafe {
        stream.launch_builder(&kernel).arg(&x).arg(&mut y).arg(&2.0f32).arg(&1000i64).launch(grid(8, 128))
    }
    .unwrap();
    let after = emulator::traffic("scale_f32").unwrap();
    assert_eq!((after.loads - before.0, after.stores - before.1), (4000, 4000));
    assert_eq!(emulator::traffic("no such kernel"), None);
}
