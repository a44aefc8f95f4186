//! Compilation of kernels before their first launch.
use crate::cuda::Gpu;
use crate::{DType, Device};
use fornax_kernels::{BackgroundCompilation, emulator, kernel_units};

/// Dtypes of every run: of parameters, targets and images.
const COMMON: [DType; 3] = [DType::F32, DType::I64, DType::U8];

/// Starts to compile the kernels for f32 and `half` on other threads, as long as the value lives. `None` for the CPU and for the emulated
/// device, whose compiler is slow: it compiles the kernels that are launched.
pub fn compile_in_background(device: &Device, half: Option<DType>) -> Option<BackgroundCompilation> {
    let Device::Cuda(ordinal) = *device else { return None };
    if emulator::is_loaded() {
        return None;
    }
    // An error of the device is returned by its first operation.
    let capability = Gpu::get(ordinal).ok()?.info().capability;
    let dtypes: Vec<String> = COMMON.into_iter().chain(half).map(|dtype| dtype.to_string()).collect();
    let is_used = |dtype: Option<&str>| dtype.is_none_or(|dtype| dtypes.iter().any(|used| used == dtype));
    let units = kernel_units().iter().filter(|unit| is_used(unit.dtype)).collect();
    Some(BackgroundCompilation::start(units, capability))
}
