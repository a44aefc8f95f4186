//! Augmentation of u8 or f32 training images in one pass: mixup or CutMix, normalization, random erasing (`kernels/cu/image/prepare.cu`).
use super::{CHANGE_HEADER_LEN, EraseMode, ImagePreparation, MAX_ERASE_BOXES};
use crate::cuda::launch::{grid_extent, to_i32};
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args, int};
use fornax_kernels::arguments;

// The kernel's limits are the operation's.
const _: () =
    assert!(arguments::MAX_BOXES == MAX_ERASE_BOXES && arguments::CHANGE_HEADER == CHANGE_HEADER_LEN);

/// Applies the rows of `changes` to the first n images `[h, w, c]`, of up to four channels.
pub(super) fn forward(
    gpu: &Gpu,
    x: DeviceSlice,
    changes: DeviceSlice,
    [n, h, w, c]: [usize; 4],
    how: &ImagePreparation,
    y: DeviceSlice,
) -> Result<()> {
    if y.len == 0 {
        return Ok(());
    }
    let four = |values: &[f32]| std::array::from_fn(|k| values.get(k).copied().unwrap_or(1.0));
    let [k0, k1, epoch, ..] = how.rng.key_and_counter();
    let preparation = arguments::Preparation {
        mean: four(how.mean),
        std: four(how.std),
        max_value: f32::from(how.white),
        rounded: i32::from(how.rounded),
        erase_mode: match how.erase_mode {
            EraseMode::Const => arguments::EraseMode::Const,
            EraseMode::Rand => arguments::EraseMode::Rand,
            EraseMode::Pixel => arguments::EraseMode::Pixel,
        },
        boxes: to_i32((changes.len / n - CHANGE_HEADER_LEN) / 4)?,
        key: [k0, k1],
        epoch,
    };
    // The kernel computes positions in an image with 32 bits.
    to_i32(h * w * c)?;
    let per_block = 256 * 16 / y.dtype.size();
    let blocks = (h * w * c).div_ceil(per_block).clamp(1, 64);
    let grid = LaunchConfig {
        grid_dim: [grid_extent(blocks), grid_extent(n), 1],
        block_dim: [256, 1, 1],
        shared_mem_bytes: 0,
        is_grid_stride: false,
    };
    let arguments = args![x, changes, y, int(h), int(w), int(c), KernelArg::by_value(&preparation)];
    gpu.launch(Kernel::new("prepare", "prepare").of(x.dtype).of(y.dtype), grid, arguments)
}
