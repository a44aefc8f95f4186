//! Generated pointwise kernels (`kernels/cu/fuse.cuh` is what they include).
use super::channels::Chunks;
use super::walk::packs;
use super::{Arg, DeviceSlice, Gpu, Grid, Result};
use crate::DType;
use crate::fuse::GeneratedKernel;
use fornax_kernels::Source;

/// How many partial results the sums of rows of `c` channels have, for a first input of that dtype.
pub(crate) fn num_partial_sums(len: usize, c: usize, dtype: DType) -> usize {
    Chunks::of_sums(len / c, c, dtype).count
}

/// Runs a kernel over rows of `c` channels, `len` elements in all. `partial`, `[partial_sums, sums, c]` floats, is there where the kernel
/// sums over rows.
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
    let mut args: Vec<Arg> = inputs.iter().chain(outputs).chain(&partial).map(Arg::from).collect();
    let grid = if generated.is_flat {
        args.push(Arg::from(len));
        Grid::stride(outputs.iter().map(|y| packs(*y)).max().unwrap_or(len))
    } else {
        // Few blocks: each thread loads what is by channel once for all its rows.
        let rows = len / c;
        let chunks = Chunks::of_sums(rows, c, first);
        args.extend([Arg::from(rows), Arg::from(c as i32), Arg::from(chunks.rows as i32)]);
        chunks.grid()
    };
    gpu.launch_generated(&Source { name: &generated.kernel, text: &generated.source }, grid, &args)
}
