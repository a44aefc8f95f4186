//! One run of a kernel: the division of its work, the numbers that it is passed, and its code.
use super::Kernel;
use super::binding::Binding;
use super::declaration::KernelText;
use super::declaration::ScalarType;
use super::text::Variant;
use crate::{Error, Result};
use std::sync::Arc;

/// Number that is passed by value.
#[derive(Clone, Copy)]
pub(super) enum Number {
    F32(f32),
    I32(i32),
    I64(i64),
}

/// Blocks, elements per thread, and the numbers that follow the pointers and the scalars among the parameters.
pub(super) struct Launch {
    pub(super) blocks: [u32; 3],
    pub(super) vector: usize,
    pub(super) counts: Vec<i64>,
}

impl Launch {
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.contains(&0)
    }

    pub(super) fn block_count(&self) -> usize {
        self.blocks.iter().map(|blocks| *blocks as usize).product()
    }
}

/// The division of the work. `is_aligned`: all inputs are aligned to 16 bytes, as outputs and scratch memory always are.
pub(super) fn plan(binding: &Binding, is_aligned: bool) -> Launch {
    let (declared, geometry) = (binding.declared, &binding.declared.geometry);
    let mut counts: Vec<i64> =
        declared.extents.iter().map(|name| binding.extents.extent(name) as i64).collect();
    let (count, extent) = match (declared.divided(), geometry.divided()) {
        (Some(argument), Some((_, extent))) => {
            let numel = binding.dims(argument, 0).iter().product::<usize>();
            match extent.map(|name| binding.extents.extent(name)) {
                // An empty row takes no block.
                Some(extent) => (numel / extent.max(1), extent),
                None => (numel, numel),
            }
        }
        _ => (0, 0),
    };
    if geometry.count_name().is_some() {
        counts.push(count as i64);
    }
    let is_body = matches!(declared.text, KernelText::Body { .. });
    let vectorizes = is_aligned && !is_body && extent.is_multiple_of(geometry.vector);
    let vector = if vectorizes { geometry.vector } else { 1 };
    Launch { blocks: geometry.blocks(count, extent, vector, &binding.extents), vector, counts }
}

/// The kernel for the dtypes of the inputs.
pub(super) fn variant(kernel: &Kernel, binding: &Binding, vector: usize) -> Arc<Variant> {
    let mut variants = kernel.variants.lock().unwrap_or_else(|e| e.into_inner());
    match variants.iter().find(|variant| variant.dtypes == binding.dtypes && variant.vector == vector) {
        Some(variant) => variant.clone(),
        None => {
            let variant = Arc::new(Variant::new(kernel.name, binding.declared, &binding.dtypes, vector));
            variants.push(variant.clone());
            variant
        }
    }
}

/// The values of the scalars in their types.
pub(super) fn numbers(binding: &Binding, values: &[f64]) -> Result<Vec<Number>> {
    let (declared, operands) = (&binding.declared.scalars, binding.operands());
    let invalid = |why: String| Error::value(binding.kernel.name, &operands, why);
    if values.len() != declared.len() {
        let names: Vec<&str> = declared.iter().map(|(name, _)| *name).collect();
        let (given, expected) = (values.len(), declared.len());
        return Err(invalid(format!("{given} values for {expected} scalars ({})", names.join(", "))));
    }
    let number = |(value, (name, of)): (&f64, &(&str, ScalarType))| match of {
        ScalarType::F32 => Ok(Number::F32(*value as f32)),
        ScalarType::I32 if f64::from(*value as i32) == *value => Ok(Number::I32(*value as i32)),
        ScalarType::I64 if value.fract() == 0.0 && value.abs() <= 2f64.powi(53) => {
            Ok(Number::I64(*value as i64))
        }
        _ => Err(invalid(format!("scalar {name} is {value}, which is no {}", of.c_type()))),
    };
    values.iter().zip(declared).map(number).collect()
}
