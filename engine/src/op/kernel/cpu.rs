//! A run on the CPU, through g++.
use super::argument::ArgumentKind;
use super::binding::Binding;
use super::declaration::DeclaredArgument;
use super::geometry::GeometryKind;
use super::plan::{Number, plan, variant};
use super::text::Code;
use super::{Geometry, Kernel};
use crate::cpu::memory::CpuBuffer;
use crate::dtype::dispatch_any;
use crate::{Device, Error, ReadGuard, Result, Tensor, WriteGuard, cpu, shapes_only};
use std::sync::Arc;

/// Runs the kernel, and returns its outputs.
pub(super) fn run(kernel: &Kernel, binding: &Binding, scalars: &[Number]) -> Result<Vec<Tensor>> {
    let declared = binding.declared;
    let empty = |output: &DeclaredArgument| {
        let (shape, dtype) = binding.output(output)?;
        dispatch_any!(dtype, T => Tensor::build(shape, |_: &mut [T]| ()))
    };
    let outputs: Vec<Tensor> = declared.of_kind(ArgumentKind::Output).map(empty).collect::<Result<_>>()?;
    if shapes_only::is_active() {
        return Ok(outputs);
    }
    let inputs = cpu_inputs(binding.inputs)?;
    let launch = plan(binding, inputs.pointers.iter().all(|pointer| pointer.is_multiple_of(16)));
    let mut guards: Vec<WriteGuard<u8>> = outputs.iter().map(Tensor::write_bytes).collect::<Result<_>>()?;
    for (guard, output) in guards.iter_mut().zip(declared.of_kind(ArgumentKind::Output)) {
        if output.is_zeroed || launch.is_empty() {
            guard.fill(0);
        }
    }
    if launch.is_empty() {
        drop(guards);
        return Ok(outputs);
    }
    let scratch = |argument: &DeclaredArgument| {
        let bytes = binding.checked_bytes(argument, launch.block_count())?;
        let mut buffer = CpuBuffer::new(bytes)?;
        if argument.is_zeroed {
            buffer.as_mut_slice::<u8>().fill(0);
        }
        Ok(buffer)
    };
    let mut scratch: Vec<CpuBuffer> =
        declared.of_kind(ArgumentKind::Scratch).map(scratch).collect::<Result<_>>()?;
    let mut pointers = [
        inputs.pointers.clone().into_iter(),
        guards.iter_mut().map(|guard| guard.as_mut_ptr() as usize).collect::<Vec<_>>().into_iter(),
        scratch
            .iter_mut()
            .map(|buffer| buffer.as_mut_slice::<u8>().as_mut_ptr() as usize)
            .collect::<Vec<_>>()
            .into_iter(),
    ];
    let pointers = declared
        .arguments
        .iter()
        .map(|argument| pointers[argument.kind as usize].next().expect("one per argument"));
    let mut arguments: Vec<Vec<u8>> =
        pointers.map(|pointer| (pointer as u64).to_ne_bytes().to_vec()).collect();
    arguments.extend(scalars.iter().map(|number| match number {
        Number::F32(value) => value.to_ne_bytes().to_vec(),
        Number::I32(value) => value.to_ne_bytes().to_vec(),
        Number::I64(value) => value.to_ne_bytes().to_vec(),
    }));
    arguments.extend(launch.counts.iter().map(|count| count.to_ne_bytes().to_vec()));
    let variant = variant(kernel, binding, launch.vector);
    let failed = |why: String| {
        let operands = crate::Operands::of(&binding.operands());
        Error::Device {
            op: kernel.name,
            device: Device::Cpu,
            operands,
            why: format!("{why} (declared at {})", kernel.location),
        }
    };
    let Code::Text(text) = &variant.code else {
        return Err(failed(
            "PTX and cubins run on CUDA devices only; move the inputs to one, or declare CUDA text".into(),
        ));
    };
    let Geometry { threads, shared_bytes, kind, .. } = declared.geometry;
    let mut blocks = launch.blocks;
    if let GeometryKind::Elementwise { .. } = kind {
        blocks[0] = blocks[0].min(MAX_CPU_BLOCKS);
    }
    let source = (variant.source_name.as_str(), text.as_str());
    // SAFETY: inputs, outputs and scratch memory are locked or owned here, and have the sizes of the declaration. The author of the kernel
    // guarantees that it accesses nothing else, as on a GPU.
    unsafe {
        cpu::kernel::run(
            &variant.key,
            kernel.name,
            source,
            [blocks, [threads, 1, 1]],
            shared_bytes,
            &arguments,
        )
    }
    .map_err(failed)?;
    drop(guards);
    Ok(outputs)
}

/// Blocks of a loop over elements on the CPU, where more than one per core only cost time.
const MAX_CPU_BLOCKS: u32 = 64;

/// Addresses of inputs in host memory, and the locks that keep them valid. A storage is locked once, also for several inputs.
struct CpuInputs<'a> {
    pointers: Vec<usize>,
    _locks: Vec<ReadGuard<'a, u8>>,
}

fn cpu_inputs<'a>(inputs: &[&'a Tensor]) -> Result<CpuInputs<'a>> {
    let (mut pointers, mut locks) = (vec![], vec![]);
    let mut locked: Vec<(*const crate::storage::Storage, usize)> = vec![];
    for t in inputs {
        let storage = Arc::as_ptr(t.storage());
        let base = match locked.iter().find(|(known, _)| *known == storage) {
            Some((_, base)) => *base,
            None => {
                let lock = t.read_storage_bytes()?;
                let base = lock.as_ptr() as usize;
                locked.push((storage, base));
                locks.push(lock);
                base
            }
        };
        pointers.push(base + t.byte_offset());
    }
    Ok(CpuInputs { pointers, _locks: locks })
}
