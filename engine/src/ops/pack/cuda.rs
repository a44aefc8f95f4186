//! Copies of many tensors in one (`kernels/cu/pack/pack.cu`).
use crate::DType;
use crate::cuda::channels::THREADS;
use crate::cuda::launch::to_i32;
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args};

/// Writes `scale` times each f32, f16 or bf16 source to `to`, from its offset on. A launch has up to [`MAX_PARTS`] sources.
pub(super) fn pack(gpu: &Gpu, sources: &[(DeviceSlice, usize)], scale: f32, to: DeviceSlice) -> Result<()> {
    let sources: Vec<&(DeviceSlice, usize)> = sources.iter().filter(|(source, _)| source.len > 0).collect();
    for group in sources.chunks(MAX_PARTS) {
        let mut table =
            Box::new(PackTable { count: group.len() as i64, parts: [PackedPart::NONE; MAX_PARTS] });
        let mut chunks = 0;
        for (part, (source, offset)) in table.parts.iter_mut().zip(group) {
            *part = PackedPart {
                from: source.pointer,
                offset: *offset as i64,
                n: source.len as i64,
                chunk: to_i32(chunks)?,
                format: format(source.dtype),
            };
            chunks += source.len.div_ceil(CHUNK);
        }
        let kernel = Kernel::new("pack", "pack").of(to.dtype);
        gpu.launch(
            kernel,
            LaunchConfig::linear(chunks, THREADS),
            args![KernelArg::by_value(&*table), to, scale],
        )?;
    }
    Ok(())
}

/// `kParts` in the kernels.
const MAX_PARTS: usize = 500;

/// Elements that a block copies: `kChunk` in the kernels.
const CHUNK: usize = 4096;

/// Same layout as `struct PackedPart` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct PackedPart {
    from: u64,
    offset: i64,
    n: i64,
    chunk: i32,
    format: i32,
}

impl PackedPart {
    const NONE: PackedPart = PackedPart { from: 0, offset: 0, n: 0, chunk: 0, format: 0 };
}

/// Same layout as `struct PackTable`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PackTable {
    count: i64,
    parts: [PackedPart; MAX_PARTS],
}
// SAFETY: numbers only, and the size of a part is a multiple of 8 bytes, so there is no padding.
unsafe impl bytemuck::NoUninit for PackTable {}

fn format(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 2,
        other => unreachable!("sources of {other} are rejected"),
    }
}
