//! Launch limits.
use super::gpu;
use crate::cuda::launch::to_i32s;
use crate::cuda::{KernelArg, LaunchConfig, args, int};
use fornax_kernels::KernelSource;

#[test]
fn static_and_dynamic_shared_memory_beyond_48_kib_together_is_reserved() {
    let text = "extern \"C\" __global__ void static_shared() {\n\
                  __shared__ volatile float values[256];\n\
                  values[threadIdx.x] = 1;\n}\n";
    let grid = LaunchConfig { shared_mem_bytes: (48 << 10) - 512, ..LaunchConfig::linear(1, 64) };
    gpu().launch_generated(&KernelSource { name: "static_shared", text }, grid, &[]).expect("launches");
    gpu().synchronize().expect("runs");
}

#[test]
fn extents_beyond_32_bits_are_an_error_that_names_the_kernel_and_the_value() {
    let text = "extern \"C\" __global__ void takes_ints(int, int) {}\n";
    let launch = |args: &[KernelArg]| {
        let source = KernelSource { name: "takes_ints", text };
        gpu().launch_generated(&source, LaunchConfig::linear(1, 1), args)
    };
    launch(args![int(i32::MAX as usize), int(0)]).expect("launches");
    let rejected = |args: &[KernelArg], value: &str| {
        let error = launch(args).expect_err("a value that does not fit").to_string();
        assert!(error.contains("takes_ints") && error.contains(value), "{error}");
    };
    rejected(args![int(1 << 31), int(0)], "2147483648");
}

#[test]
fn extents_of_a_struct_beyond_32_bits_are_an_error_that_names_the_value() {
    assert_eq!(to_i32s([0, i32::MAX as usize]).expect("they fit"), [0, i32::MAX]);
    let error = to_i32s([1, 5_000_000_000]).expect_err("the second does not fit").to_string();
    assert!(error.contains("5000000000"), "{error}");
}
