//! Launch limits.
use super::gpu;
use crate::cuda::LaunchConfig;
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
