//! Training images from bytes in one pass (`kernels/cu/prepare.cu`).
use super::walk::int;
use super::{Arg, DeviceSlice, Gpu, Grid, Result, args};
use crate::ops::{CHANGE_HEADER_LEN, EraseMode, ImagePreparation};

/// Images `[n, h, w, c]` of up to four channels, changed as the rows of `changes` say.
pub(crate) fn forward(
    gpu: &Gpu,
    x: DeviceSlice,
    changes: DeviceSlice,
    [n, h, w, c]: [usize; 4],
    how: &ImagePreparation,
    y: DeviceSlice,
) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    let four = |values: &[f32]| std::array::from_fn(|k| values.get(k).copied().unwrap_or(1.0));
    let [k0, k1, epoch, ..] = how.rng.key_and_counter();
    let preparation = Preparation {
        mean: four(how.mean),
        std: four(how.std),
        white: f32::from(how.white),
        rounded: i32::from(how.rounded),
        fill: match how.erase_mode {
            EraseMode::Const => 0,
            EraseMode::Rand => 1,
            EraseMode::Pixel => 2,
        },
        boxes: int((changes.len / n - CHANGE_HEADER_LEN) / 4)?,
        key: [k0, k1],
        epoch,
    };
    let per_block = 256 * 16 / y.dtype.size();
    let blocks = (h * w * c).div_ceil(per_block).clamp(1, 64);
    let grid = Grid { blocks: [blocks as u32, n as u32, 1], threads: [256, 1, 1], shared: 0 };
    let arguments = args![x, changes, y, int(h)?, int(w)?, int(c)?, Arg::of(&preparation)];
    gpu.launch("prepare", &format!("prepare_{}", y.dtype), grid, arguments)
}

/// The twin of `struct Preparation` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Preparation {
    mean: [f32; 4],
    std: [f32; 4],
    white: f32,
    rounded: i32,
    fill: i32,
    boxes: i32,
    key: [u32; 2],
    epoch: u32,
}
