//! Self-tests of a CUDA device, for `fornax doctor`. Without them a missing library shows late, or only as slower training.
use crate::cuda::{CudaError, DeviceBuffer, DeviceSlice, Gpu, LaunchConfig, Result};
use crate::ops::conv::cuda::plan_with_sums;
use crate::{ConvAlgorithm, ConvShape, DType};
use fornax_kernels::{KernelSource, Nvrtc};
use std::sync::Arc;

/// Self-test of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfTest {
    /// Name.
    pub name: &'static str,
    /// Result, or the reason for the failure.
    pub result: std::result::Result<String, String>,
}

/// Compiles and runs a kernel on the CUDA device of that ordinal, and plans and runs a convolution that cuDNN fuses with batch norm
/// statistics, whose kernel cuDNN compiles by NVRTC.
pub fn self_tests(ordinal: usize) -> Vec<SelfTest> {
    let test = |name, run: fn(&Arc<Gpu>) -> Result<String>| {
        let result = Gpu::get(ordinal).and_then(|gpu| run(&gpu)).map_err(|e| e.why);
        SelfTest { name, result }
    };
    vec![test("kernel", compile_and_run), test("fused convolution", plan_fused_convolution)]
}

fn compile_and_run(gpu: &Arc<Gpu>) -> Result<String> {
    let text = "extern \"C\" __global__ void fornax_self_test() {}";
    let source = KernelSource { name: "fornax_self_test", text };
    // Not from the cache of compiled kernels.
    let compiled = Nvrtc::shared().and_then(|nvrtc| {
        let target = nvrtc.target(gpu.info().capability);
        nvrtc.compile(source, target).map(|_| target)
    });
    let target = compiled.map_err(|e| CudaError::new(e.to_string()))?;
    gpu.launch_generated(&source, LaunchConfig::linear(1, 32), &[])?;
    gpu.synchronize()?;
    Ok(format!("compiled for {target} and run"))
}

fn plan_fused_convolution(gpu: &Arc<Gpu>) -> Result<String> {
    let shape = ConvShape {
        n: 1,
        h: 8,
        w: 8,
        c_in: 64,
        c_out: 64,
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
        dilation: [1, 1],
        groups: 1,
        algorithm: ConvAlgorithm::Auto,
    };
    let zeros = |len: usize, dtype| -> Result<DeviceBuffer> {
        let buffer = gpu.empty(len, dtype)?;
        gpu.zero(buffer.as_slice(dtype))?;
        Ok(buffer)
    };
    let [x, weight, y] =
        [shape.input_len(), shape.weight_len(), shape.output_len()].map(|len| zeros(len, DType::BF16));
    let (x, weight, y, sums) = (x?, weight?, y?, zeros(2 * shape.c_out, DType::F32)?);
    let [x, weight, y]: [DeviceSlice; 3] = [&x, &weight, &y].map(|buffer| buffer.as_slice(DType::BF16));
    let is_fused = plan_with_sums(gpu, &shape, x, weight, y, sums.as_slice(DType::F32))?;
    gpu.synchronize()?;
    match is_fused {
        true => Ok("planned and run, with batch norm statistics in cuDNN's kernel".into()),
        false => Err(CudaError::new(
            "cuDNN has no kernel with batch norm statistics, so training is slower: are NVRTC and its libnvrtc-builtins of cuDNN's CUDA version?",
        )),
    }
}
