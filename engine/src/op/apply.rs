//! Running an operation: checks, memory for the results, half precision on the CPU, errors, and its place in the graph.
use super::launch::{Few, check_device, launch_checked};
use super::{CpuCall, DTypes, Mismatch, Op, Spec, TensorInfo};
use crate::autograd::{Derivative, Gradients, Saved, is_tracked, recomputed_gradients, track};
use crate::{DType, Device, Error, Result, Tensor, shapes_only};

/// The first result of an operation, in the graph.
pub(crate) fn apply<O: Op + Derivative>(op: O, x: &[&Tensor]) -> Result<Tensor> {
    Ok(apply_all(op, x)?.swap_remove(0))
}

/// The results of an operation, the first one in the graph.
pub(crate) fn apply_all<O: Op + Derivative>(op: O, x: &[&Tensor]) -> Result<Vec<Tensor>> {
    let results = compute_all(&op, x)?;
    Ok(track(op.spec().name, x, results, op))
}

/// The first result of an operation, outside the graph.
pub(crate) fn compute(op: &dyn Op, x: &[&Tensor]) -> Result<Tensor> {
    Ok(compute_all(op, x)?.swap_remove(0))
}

/// `y`, a view of an operand or a result of other operations on it, in the graph.
pub(crate) fn with_derivative(
    name: &'static str,
    x: &[&Tensor],
    y: Tensor,
    derivative: impl Derivative,
) -> Tensor {
    track(name, x, vec![y], derivative).swap_remove(0)
}

/// The gradients of an operation from its equal composition `f` of differentiable operations on its operands, all of which it has saved.
pub(crate) fn composed_backward(
    saved: &Saved,
    dy: &Tensor,
    needs: &[bool],
    f: impl FnOnce(&[Tensor]) -> Result<Tensor>,
) -> Result<Gradients> {
    let operands: Vec<&Tensor> = (0..needs.len()).map(|i| saved.operand(i)).collect();
    recomputed_gradients(&operands, dy, needs, f)
}

/// The gradients that an operation computes, one result for each operand that `needs` marks; with `create_graph` those of its equal
/// `composition` of differentiable operations instead.
pub(crate) fn gradients(
    op: &dyn Op,
    x: &[&Tensor],
    needs: &[bool],
    composition: impl FnOnce() -> Result<Gradients>,
) -> Result<Gradients> {
    if is_tracked(x) {
        return composition();
    }
    let mut results = compute_all(op, x)?.into_iter();
    Ok(needs.iter().map(|needed| if *needed { results.next() } else { None }).collect())
}

/// The error of a backward pass with `create_graph` through an operation without a second derivative.
pub(crate) fn no_second_derivative(op: &str) -> Error {
    let why = format!("{op} has no second derivative; call gradients with create_graph = false");
    Error::Autograd { why }
}

/// The results of an operation, outside the graph.
pub(crate) fn compute_all(op: &dyn Op, x: &[&Tensor]) -> Result<Vec<Tensor>> {
    let spec = op.spec();
    let names = |i: usize| spec.operands[i.min(spec.operands.len() - 1)];
    let named: Few<(&'static str, &Tensor)> = x.iter().enumerate().map(|(i, t)| (names(i), *t)).collect();
    let device = check_device(spec.name, &named)?;
    let results = check_dtypes(&spec, x, device).and_then(|()| op.results(x));
    let results = results.map_err(|mismatch| mismatch.error(spec.name, &named))?;
    match device {
        Device::Cpu => on_cpu(op, &spec, x, &results),
        Device::Cuda(_) => on_gpu(op, spec.name, &named, &results),
    }
}

fn on_gpu(
    op: &dyn Op,
    name: &'static str,
    operands: &[(&'static str, &Tensor)],
    results: &[TensorInfo],
) -> Result<Vec<Tensor>> {
    launch_checked(name, operands, |gpu, x| {
        let empty = |r: &TensorInfo| Tensor::build_on(gpu, r.shape, r.dtype, |_| Ok(()));
        let y = results.iter().map(empty).collect::<std::result::Result<Vec<_>, _>>()?;
        let views: Few<_> = y.iter().map(Tensor::device_view).collect();
        op.cuda(gpu, x, &views.iter().map(|view| view.slice()).collect::<Few<_>>())?;
        drop(views);
        Ok(y)
    })
}

fn on_cpu(op: &dyn Op, spec: &Spec, x: &[&Tensor], results: &[TensorInfo]) -> Result<Vec<Tensor>> {
    let widens = !spec.stores_half && matches!(spec.dtypes, DTypes::Float | DTypes::FirstFloat);
    let compute_dtype = |dtype: DType| if widens && dtype.is_half() { DType::F32 } else { dtype };
    let empty = |r: &TensorInfo| crate::dtype::dispatch_any!(compute_dtype(r.dtype), T => Tensor::build(r.shape, |_: &mut [T]| ()));
    let y = results.iter().map(empty).collect::<Result<Vec<_>>>()?;
    if !shapes_only::is_active() {
        let widened = |t: &&Tensor| match compute_dtype(t.dtype()) {
            dtype if dtype == t.dtype() => Ok((*t).clone()),
            dtype => t.detach().to_dtype(dtype),
        };
        let x = x.iter().map(widened).collect::<Result<Vec<_>>>()?;
        op.cpu(&CpuCall { x: &x, y: &y })?;
    }
    y.into_iter().zip(results).map(|(y, r)| y.to_dtype(r.dtype)).collect()
}

fn check_dtypes(spec: &Spec, x: &[&Tensor], device: Device) -> std::result::Result<(), Mismatch> {
    let (dtypes, first) = (spec.dtypes, x[0].dtype());
    let is_float = matches!(dtypes, DTypes::Float | DTypes::FirstFloat);
    if is_float && first == DType::F64 && device != Device::Cpu {
        return Err(Mismatch::DType("f32, f16 or bf16 on a GPU"));
    }
    if is_float && !first.is_float() {
        return Err(Mismatch::DType("f32, f16, bf16 or f64"));
    }
    if matches!(dtypes, DTypes::Float | DTypes::Any) && x.iter().any(|t| t.dtype() != first) {
        return Err(Mismatch::DType("operands of one dtype"));
    }
    Ok(())
}
