//! Images of bytes as numbers (`kernels/cu/normalize.cu`).
use super::walk::{int, packs};
use super::{Gpu, Grid, Result, Slice, args};

/// `y = (x / white - mean) / std` by channel, the last axis; mean and std are f32, one number a channel.
pub(crate) fn forward(gpu: &Gpu, x: Slice, white: f32, [mean, std]: [Slice; 2], y: Slice) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    let arguments = args![x, y, x.len, int(mean.len)?, white, mean, std];
    gpu.launch("normalize", &format!("normalize_{}", y.dtype), Grid::stride(packs(y)), arguments)
}
