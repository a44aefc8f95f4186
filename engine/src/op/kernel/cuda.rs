//! A run on a CUDA device.
use super::argument::ArgumentKind;
use super::binding::Binding;
use super::declaration::DeclaredArgument;
use super::geometry::GeometryKind;
use super::plan::{Number, plan, variant};
use super::text::Code;
use super::{Geometry, Kernel};
use crate::cuda::{self, DeviceBuffer, DeviceSlice, KernelArg, LaunchConfig};
use crate::{DType, Result, Tensor};

/// Queues the kernel, and returns its outputs.
pub(super) fn run(kernel: &Kernel, binding: &Binding, scalars: &[Number]) -> Result<Vec<Tensor>> {
    let views: Vec<_> = binding.inputs.iter().map(|t| t.device_view()).collect();
    let (gpu, declared) = (views[0].gpu().clone(), binding.declared);
    let with_context =
        |e: cuda::CudaError| e.with_op_context(kernel.name, binding.device, &binding.operands());
    let is_aligned = views.iter().all(|view| view.slice().pointer.is_multiple_of(16));
    let launch = plan(binding, is_aligned);
    let empty = |output: &DeclaredArgument| {
        let (shape, dtype) = binding.output(output)?;
        let fill = |y: DeviceSlice| {
            let zeroes = y.len > 0 && (output.is_zeroed || launch.is_empty());
            if zeroes { gpu.zero(y) } else { Ok(()) }
        };
        Tensor::build_on(&gpu, shape, dtype, fill).map_err(with_context)
    };
    let outputs: Vec<Tensor> = declared.of_kind(ArgumentKind::Output).map(empty).collect::<Result<_>>()?;
    if launch.is_empty() {
        return Ok(outputs);
    }
    let scratch = |argument: &DeclaredArgument| {
        let bytes = binding.checked_bytes(argument, launch.block_count())?;
        let buffer = gpu.empty(bytes, DType::U8).map_err(with_context)?;
        if argument.is_zeroed {
            gpu.zero(buffer.as_slice(DType::U8)).map_err(with_context)?;
        }
        Ok(buffer)
    };
    let scratch: Vec<DeviceBuffer> =
        declared.of_kind(ArgumentKind::Scratch).map(scratch).collect::<Result<_>>()?;
    let output_views: Vec<_> = outputs.iter().map(Tensor::device_view).collect();
    let mut slices = [
        views.iter().map(|view| view.slice()).collect::<Vec<_>>().into_iter(),
        output_views.iter().map(|view| view.slice()).collect::<Vec<_>>().into_iter(),
        scratch.iter().map(|buffer| buffer.as_slice(DType::U8)).collect::<Vec<_>>().into_iter(),
    ];
    let pointers = declared
        .arguments
        .iter()
        .map(|argument| slices[argument.kind as usize].next().expect("one per argument"));
    let mut arguments: Vec<KernelArg> = pointers.map(KernelArg::from).collect();
    arguments.extend(scalars.iter().map(|number| match number {
        Number::F32(value) => KernelArg::from(*value),
        Number::I32(value) => KernelArg::from(*value),
        Number::I64(value) => KernelArg::from(*value),
    }));
    arguments.extend(launch.counts.iter().map(|count| KernelArg::from(*count)));
    let Geometry { threads, shared_bytes, kind, .. } = declared.geometry;
    let config = LaunchConfig {
        grid_dim: launch.blocks,
        block_dim: [threads, 1, 1],
        shared_mem_bytes: shared_bytes,
        is_grid_stride: matches!(kind, GeometryKind::Elementwise { .. })
            && threads == cuda::OCCUPANCY_THREADS,
    };
    let variant = variant(kernel, binding, launch.vector);
    let launched = match &variant.code {
        Code::Text(text) => {
            gpu.launch_text(&variant.key, kernel.name, (&variant.source_name, text), config, &arguments)
        }
        Code::Image(image) => gpu.launch_image(&variant.key, kernel.name, image, config, &arguments),
    };
    launched.map_err(|e| with_context(declared_at(kernel, e)))?;
    drop(output_views);
    Ok(outputs)
}

/// The error with the place of the declaration.
fn declared_at(kernel: &Kernel, error: cuda::CudaError) -> cuda::CudaError {
    cuda::CudaError { why: format!("{} (declared at {})", error.why, kernel.location), ..error }
}
