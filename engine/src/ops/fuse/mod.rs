//! Fused elementwise expressions as operations.
pub(crate) mod cpu;
mod cuda;

use crate::autograd::{Derivative, Gradients, Saved, Saves, is_grad_enabled};
use crate::dtype::{bf16, f16};
use crate::fuse::{Broadcast, Expression, KernelOutput, KernelSignature, MAX_INPUTS, ProgramKernels};
use crate::op::{check_device, launch, with_derivative};
use crate::scalar::Elementary;
use crate::{DType, Device, Element, Error, ReadGuard, Result, Shape, Tensor, WriteGuard};
use cpu::{ProgramInput, ProgramOutput};

const OP: &str = "fuse";

/// Names of the operands in errors.
const NAMES: [&str; MAX_INPUTS] =
    ["input 0", "input 1", "input 2", "input 3", "input 4", "input 5", "input 6", "input 7"];

impl Expression {
    /// Applies the expression elementwise, as one operation. Inputs broadcast by NumPy's rule; scalars and vectors over the last axis (or
    /// axes) are read directly, other broadcast inputs are expanded first. f32, f16, bf16; f64 on the CPU. All inputs have the dtype of the
    /// first, or may be f32 if it is f16 or bf16; the result has its dtype. Arithmetic is in f32, for f64 in f64.
    pub fn apply(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let operands: Vec<(&'static str, &Tensor)> = NAMES.into_iter().zip(inputs.iter().copied()).collect();
        if inputs.len() != self.inputs() {
            let why = format!("the expression has {} inputs, not {}", self.inputs(), inputs.len());
            return Err(Error::value(OP, &operands, why));
        }
        let dtype = inputs[0].dtype();
        let compute_dtype = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        if !dtype.is_float() || inputs.iter().any(|t| t.dtype() != dtype && t.dtype() != compute_dtype) {
            let accepted = "floats of the first one's dtype, or f32 where the first one is f16 or bf16";
            return Err(Error::dtype(OP, &operands, accepted));
        }
        if check_device(OP, &operands)? != Device::Cpu && dtype == DType::F64 {
            return Err(Error::dtype(OP, &operands, "f32, f16 or bf16 on a GPU"));
        }
        let mut shape = Shape::default();
        for t in inputs {
            let Some(broadcast) = shape.broadcast(t.shape())? else {
                return Err(Error::shape(OP, &operands, "the shapes do not broadcast"));
            };
            shape = broadcast;
        }
        let c = channels(&shape, inputs);
        let expanded = |t: &&Tensor| {
            if broadcast_kind(t, &shape, c).is_some() { Ok((*t).clone()) } else { t.expand(shape) }
        };
        let inputs: Vec<Tensor> = inputs.iter().map(expanded).collect::<Result<_>>()?;
        let call = FusedCall { shape, c, inputs: inputs.iter().map(Tensor::detach).collect() };
        let signature =
            KernelSignature { inputs: call.signature(), outputs: vec![KernelOutput::Elements(dtype)] };
        let y = call.run(&self.0.forward, signature)?.remove(0);
        let derivative = ExpressionDerivative { expression: self.clone(), shape, c };
        Ok(with_derivative(OP, &inputs.iter().collect::<Vec<_>>(), y, derivative))
    }
}

/// Derivative of an expression of inputs that broadcast to a shape.
struct ExpressionDerivative {
    expression: Expression,
    shape: Shape,
    c: usize,
}

impl Derivative for ExpressionDerivative {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::all_operands()
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        let inputs: Vec<Tensor> = (0..needs.len()).map(|i| saved.operand(i).clone()).collect();
        if is_grad_enabled() {
            return composed(&self.expression, &inputs, &dy, needs);
        }
        FusedCall { shape: self.shape, c: self.c, inputs }.backward(&self.expression, dy, needs)
    }
}

/// The gradients of an expression, as expressions of its inputs and the upstream gradient.
fn composed(
    expression: &Expression,
    inputs: &[Tensor],
    grad: &Tensor,
    needs: &[bool],
) -> Result<Vec<Option<Tensor>>> {
    let wide = if grad.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let of = |(i, (t, need)): (usize, (&Tensor, &bool))| {
        need.then(|| {
            let operands: Vec<&Tensor> = inputs.iter().chain([grad]).collect();
            let grad = expression.gradient(i).apply(&operands)?;
            if grad.shape() == t.shape() {
                return grad.to_dtype(t.dtype());
            }
            grad.to_dtype(wide)?.sum_to(t.shape())?.to_dtype(t.dtype())
        })
        .transpose()
    };
    inputs.iter().zip(needs).enumerate().map(of).collect()
}

/// Inputs broadcast to one shape; each is full, per channel, or a scalar.
pub(super) struct FusedCall {
    pub(super) shape: Shape,
    pub(super) c: usize,
    pub(super) inputs: Vec<Tensor>,
}

impl FusedCall {
    pub(super) fn signature(&self) -> Vec<(DType, Broadcast)> {
        let of =
            |t: &Tensor| (t.dtype(), broadcast_kind(t, &self.shape, self.c).expect("others were expanded"));
        self.inputs.iter().map(of).collect()
    }

    fn backward(&self, expression: &Expression, grad: Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let wanted = needs.iter().enumerate().fold(0, |bits, (i, need)| bits | u32::from(*need) << i);
        let signature = KernelSignature::backward(&self.signature(), wanted);
        let inputs = self.inputs.iter().cloned().chain([grad]).collect();
        let call = FusedCall { shape: self.shape, c: self.c, inputs };
        let mut grads = call.run(&expression.gradients(wanted), signature)?.into_iter();
        let of = |(t, need): (&Tensor, &bool)| {
            need.then(|| {
                let grad = grads.next().expect("one for each that is wanted");
                if grad.shape() == t.shape() {
                    return grad.to_dtype(t.dtype());
                }
                // Per-channel sums, for a scalar or an input of fewer axes than the channels span.
                let grad = if t.numel() == 1 { grad.sum_all()? } else { grad };
                grad.reshape(*t.shape())?.to_dtype(t.dtype())
            })
            .transpose()
        };
        self.inputs.iter().zip(needs).map(of).collect()
    }

    /// Runs the kernels. The outputs have the full shape, or are `[c]` sums: f32 on a GPU, f64 on the CPU.
    pub(super) fn run(&self, kernels: &ProgramKernels, signature: KernelSignature) -> Result<Vec<Tensor>> {
        let operands: Vec<(&'static str, &Tensor)> =
            NAMES.into_iter().chain(["gradient"]).zip(&self.inputs).collect();
        match (check_device(OP, &operands)?, self.inputs[0].dtype()) {
            (Device::Cuda(_), _) => self.run_gpu(&operands, kernels, signature),
            (Device::Cpu, DType::F64) => self.run_cpu::<f64>(kernels, &signature),
            (Device::Cpu, _) => self.run_cpu::<f32>(kernels, &signature),
        }
    }

    fn run_gpu(
        &self,
        operands: &[(&'static str, &Tensor)],
        kernels: &ProgramKernels,
        signature: KernelSignature,
    ) -> Result<Vec<Tensor>> {
        let (c, len, dtype) = (self.c, self.shape.numel(), self.inputs[0].dtype());
        let sums = signature.outputs.iter().filter(|output| **output == KernelOutput::Sums).count();
        let partial_shape = Shape::new(&[cuda::num_partial_sums(len, c, dtype), sums, c])?;
        let (elements, partial) = launch(OP, operands, |gpu, inputs| {
            let empty = |shape, dtype| Tensor::build_on(gpu, shape, dtype, |_| Ok(()));
            let mut elements = vec![];
            for output in &signature.outputs {
                if let KernelOutput::Elements(dtype) = output {
                    elements.push(empty(self.shape, *dtype)?);
                }
            }
            let partial = (sums > 0).then(|| empty(partial_shape, DType::F32)).transpose()?;
            let views: Vec<_> = elements.iter().chain(&partial).map(Tensor::device_view).collect();
            let slices: Vec<_> = views.iter().map(|view| view.slice()).collect();
            let (outputs, of_partial) = slices.split_at(elements.len());
            let generated = kernels.generated(signature.clone());
            cuda::run(gpu, &generated, (c, len), inputs, outputs, of_partial.first().copied())?;
            drop(views);
            Ok((elements, partial))
        })?;
        let total = partial.map(|partial| partial.sum(&[0], false)).transpose()?;
        let (mut elements, mut sum_rows) = (elements.into_iter(), 0..sums);
        let each = signature.outputs.iter().map(|output| match (output, &total) {
            (KernelOutput::Sums, Some(total)) => {
                let k = sum_rows.next().expect("one for each");
                total.narrow(0, k, 1)?.reshape([c])
            }
            _ => Ok(elements.next().expect("one for each")),
        });
        each.collect()
    }

    fn run_cpu<T: Elementary>(
        &self,
        kernels: &ProgramKernels,
        signature: &KernelSignature,
    ) -> Result<Vec<Tensor>> {
        let (c, len) = (self.c, self.shape.numel());
        let empty = |output: &KernelOutput| match output {
            KernelOutput::Elements(dtype) => {
                crate::dtype::dispatch_any!(*dtype, T => Tensor::build(self.shape, |_: &mut [T]| ()))
            }
            KernelOutput::Sums => Tensor::build([c], |_: &mut [f64]| ()),
        };
        let outputs: Vec<Tensor> = signature.outputs.iter().map(empty).collect::<Result<_>>()?;
        {
            let inputs: Vec<HostInput> = self.inputs.iter().map(HostInput::of).collect::<Result<_>>()?;
            let broadcasts = signature.inputs.iter().map(|(_, broadcast)| *broadcast);
            let sources: Vec<ProgramInput<T>> =
                inputs.iter().zip(broadcasts).map(|(input, broadcast)| input.source(broadcast)).collect();
            let mut written: Vec<HostOutput> = outputs.iter().map(HostOutput::of).collect::<Result<_>>()?;
            let sinks =
                written.iter_mut().zip(&signature.outputs).map(|(to, output)| to.sink(*output)).collect();
            cpu::run(&kernels.program, &sources, c, len, sinks);
        }
        Ok(outputs)
    }
}

/// The elements of an input in host memory.
enum HostInput<'a> {
    F32(ReadGuard<'a, f32>),
    F16(ReadGuard<'a, f16>),
    BF16(ReadGuard<'a, bf16>),
    F64(ReadGuard<'a, f64>),
}

impl<'a> HostInput<'a> {
    fn of(t: &'a Tensor) -> Result<HostInput<'a>> {
        Ok(match t.dtype() {
            DType::F16 => HostInput::F16(t.read()?),
            DType::BF16 => HostInput::BF16(t.read()?),
            DType::F64 => HostInput::F64(t.read()?),
            _ => HostInput::F32(t.read()?),
        })
    }

    fn source<T: Elementary>(&self, broadcast: Broadcast) -> ProgramInput<'_, T> {
        fn few<T: Element>(values: &[impl Element]) -> Vec<T> {
            values.iter().map(|v| T::from_f64(v.to_f64())).collect()
        }
        if broadcast != Broadcast::Full {
            let values: Vec<T> = match self {
                HostInput::F32(x) => few(x),
                HostInput::F16(x) => few(x),
                HostInput::BF16(x) => few(x),
                HostInput::F64(x) => few(x),
            };
            return if broadcast == Broadcast::Scalar {
                ProgramInput::Scalar(values[0])
            } else {
                ProgramInput::Channels(values)
            };
        }
        match self {
            HostInput::F32(x) => ProgramInput::Elements(bytemuck::cast_slice(x)),
            HostInput::F64(x) => ProgramInput::Elements(bytemuck::cast_slice(x)),
            HostInput::F16(x) => ProgramInput::F16(x),
            HostInput::BF16(x) => ProgramInput::BF16(x),
        }
    }
}

/// The elements of an output in host memory.
enum HostOutput<'a> {
    F32(WriteGuard<'a, f32>),
    F16(WriteGuard<'a, f16>),
    BF16(WriteGuard<'a, bf16>),
    F64(WriteGuard<'a, f64>),
}

impl<'a> HostOutput<'a> {
    fn of(t: &'a Tensor) -> Result<HostOutput<'a>> {
        Ok(match t.dtype() {
            DType::F16 => HostOutput::F16(t.write()?),
            DType::BF16 => HostOutput::BF16(t.write()?),
            DType::F64 => HostOutput::F64(t.write()?),
            _ => HostOutput::F32(t.write()?),
        })
    }

    fn sink<T: Elementary>(&mut self, output: KernelOutput) -> ProgramOutput<'_, T> {
        match self {
            HostOutput::F32(y) => ProgramOutput::Elements(bytemuck::cast_slice_mut(y)),
            HostOutput::F64(y) => match output {
                KernelOutput::Sums => ProgramOutput::Sums(y),
                KernelOutput::Elements(_) => ProgramOutput::Elements(bytemuck::cast_slice_mut(y)),
            },
            HostOutput::F16(y) => ProgramOutput::F16(y),
            HostOutput::BF16(y) => ProgramOutput::BF16(y),
        }
    }
}

/// Number of channels: the size of the smallest input that covers the last axes of the shape but not all of them. Without such an input,
/// the extent of the last axis.
fn channels(shape: &Shape, inputs: &[&Tensor]) -> usize {
    let of = inputs.iter().filter(|t| is_suffix(t, shape) && t.numel() > 1 && t.numel() < shape.numel());
    let last = shape.last().copied().unwrap_or(1);
    of.map(|t| t.numel()).min().unwrap_or(last).max(1)
}

/// How a tensor broadcasts to a shape with `c` channels, or `None` when it must be expanded first.
fn broadcast_kind(t: &Tensor, shape: &Shape, c: usize) -> Option<Broadcast> {
    if t.numel() == shape.numel() && is_suffix(t, shape) {
        Some(Broadcast::Full)
    } else if t.numel() == 1 {
        Some(Broadcast::Scalar)
    } else if t.numel() == c && is_suffix(t, shape) {
        Some(Broadcast::Channel)
    } else {
        None
    }
}

/// True when a tensor's extents, without leading ones, are the last extents of a shape.
fn is_suffix(t: &Tensor, shape: &Shape) -> bool {
    let leading = t.dims().iter().take_while(|extent| **extent == 1).count();
    shape.ends_with(&t.dims()[leading..])
}
