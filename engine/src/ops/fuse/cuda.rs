//! Generated pointwise kernels; they include `kernels/cu/fuse.cuh`.
use crate::DType;
use crate::cuda::launch::channels::Chunks;
use crate::cuda::launch::strided_pair::num_packs;
use crate::cuda::{DeviceSlice, Gpu, KernelArg, LaunchConfig, Result, int};
use crate::fuse::GeneratedKernel;
use fornax_kernels::KernelSource;

/// Number of partial results of sums over rows of `c` channels, for a first input of that dtype.
pub(crate) fn num_partial_sums(len: usize, c: usize, dtype: DType) -> usize {
    Chunks::for_sums(len / c, c, dtype).count
}

/// Runs a kernel over rows of `c` channels, `len` elements in total. A kernel that sums over rows writes `partial`,
/// `[num_partial_sums, sums, c]` f32.
pub(crate) fn run(
    gpu: &Gpu,
    generated: &GeneratedKernel,
    (c, len): (usize, usize),
    inputs: &[DeviceSlice],
    outputs: &[DeviceSlice],
    partial: Option<DeviceSlice>,
) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    let first = inputs[0].dtype;
    let mut args: Vec<KernelArg> =
        inputs.iter().chain(outputs).chain(&partial).map(KernelArg::from).collect();
    let grid = if generated.is_flat {
        args.push(KernelArg::from(len));
        LaunchConfig::grid_stride(outputs.iter().map(|y| num_packs(*y)).max().unwrap_or(len))
    } else {
        // Few blocks, because each thread loads the per-channel operands once for all its rows.
        let rows = len / c;
        let chunks = Chunks::for_sums(rows, c, first);
        args.extend([KernelArg::from(rows), int(c), int(chunks.rows)]);
        chunks.grid()
    };
    gpu.launch_generated(&KernelSource { name: &generated.kernel, text: &generated.source }, grid, &args)
}
