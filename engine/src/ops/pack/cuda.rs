//! Copies of many tensors in one (`kernels/cu/pack/pack.cu`).
use crate::cuda::launch::arguments::element_format;
use crate::cuda::launch::channels::THREADS;
use crate::cuda::launch::to_i32;
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args};
use fornax_kernels::ByValue;
use fornax_kernels::arguments::{PACK_CHUNK, PARTS, PackTable, PackedPart};

/// Writes `scale` times each f32, f16 or bf16 source to `to`, from its offset on. A launch has up to [`PARTS`] sources.
pub(super) fn pack(gpu: &Gpu, sources: &[(DeviceSlice, usize)], scale: f32, to: DeviceSlice) -> Result<()> {
    let sources: Vec<&(DeviceSlice, usize)> = sources.iter().filter(|(source, _)| source.len > 0).collect();
    for group in sources.chunks(PARTS) {
        let mut table = Box::new(PackTable { count: group.len() as i64, ..PackTable::zeroed() });
        let mut chunks = 0;
        for (part, (source, offset)) in table.parts.iter_mut().zip(group) {
            *part = PackedPart {
                from: (*source).into(),
                offset: *offset as i64,
                n: source.len as i64,
                chunk: to_i32(chunks)?,
                format: element_format(source.dtype),
            };
            chunks += source.len.div_ceil(PACK_CHUNK);
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
