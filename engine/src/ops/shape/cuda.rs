//! Launchers of shape operations that are more than copies.
use crate::cuda::launch::strided_pair::num_packs;
use crate::cuda::{DeviceSlice, Gpu, Kernel, LaunchConfig, Result, args};

/// `y = x`, converted to y's dtype, which must differ from x's (`kernels/cu/elementwise/cast.cu`).
pub(crate) fn cast(gpu: &Gpu, x: DeviceSlice, y: DeviceSlice) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    let grid = LaunchConfig::grid_stride(num_packs(x).max(num_packs(y)));
    gpu.launch(Kernel::new("cast", "cast").of(x.dtype).of(y.dtype), grid, args![x, y, x.len])
}
