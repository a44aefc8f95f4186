//! Inputs of one run, checked against a kernel's declaration.
use super::argument::{ArgumentKind, Axis, Element};
use super::declaration::{Declaration, DeclaredArgument, DeclaredElement};
use super::geometry::LaunchExtents;
use super::{Kernel, KernelBytes};
use crate::error::Operands;
use crate::{DType, Device, Error, MAX_RANK, Result, Shape, Tensor};

/// Inputs of one run, with the extents and dtypes that follow from them.
pub(super) struct Binding<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) declared: &'a Declaration,
    pub(super) inputs: &'a [&'a Tensor],
    pub(super) device: Device,
    /// Dtype of each template.
    pub(super) dtypes: Vec<DType>,
    /// Values of the named extents.
    pub(super) extents: LaunchExtents,
    /// Extents that `..` stands for.
    rest: Vec<usize>,
}

impl<'a> Binding<'a> {
    pub(super) fn new(
        kernel: &'a Kernel,
        declared: &'a Declaration,
        inputs: &'a [&'a Tensor],
    ) -> Result<Binding<'a>> {
        let expected: Vec<&DeclaredArgument> = declared.of_kind(ArgumentKind::Input).collect();
        let Some(first) = inputs.first().filter(|_| inputs.len() == expected.len()) else {
            let names: Vec<String> =
                expected.iter().map(|input| format!("{}: {}", input.name, input.type_text)).collect();
            let unnamed: Vec<(&'static str, &Tensor)> = inputs.iter().map(|t| ("input", *t)).collect();
            let why = format!("{} inputs for {} ({})", inputs.len(), expected.len(), names.join(", "));
            return Err(Error::value(kernel.name, &unnamed, why));
        };
        let mut binding = Binding {
            kernel,
            declared,
            inputs,
            device: first.device(),
            dtypes: vec![],
            extents: LaunchExtents { values: vec![] },
            rest: vec![],
        };
        if inputs.iter().any(|t| t.device() != binding.device) {
            let why = "all inputs must be on one device; move them with to_device".to_string();
            let operands = Operands::of(&binding.operands());
            return Err(Error::Device { op: kernel.name, device: binding.device, operands, why });
        }
        binding.bind_dtypes(&expected)?;
        let mut rest = None;
        for (argument, t) in expected.iter().zip(inputs) {
            binding.bind_shape(argument, t, &mut rest)?;
        }
        binding.rest = rest.unwrap_or_default();
        Ok(binding)
    }

    /// The inputs with their names.
    pub(super) fn operands(&self) -> Vec<(&'static str, &'a Tensor)> {
        self.declared
            .of_kind(ArgumentKind::Input)
            .map(|input| input.name)
            .zip(self.inputs.iter().copied())
            .collect()
    }

    /// Element of an argument.
    pub(super) fn element(&self, argument: &DeclaredArgument) -> Element {
        match argument.element {
            DeclaredElement::Fixed(element) => element,
            DeclaredElement::Template(index) => Element::Of(self.dtypes[index]),
        }
    }

    /// Extents of an argument, for a launch of that number of blocks.
    pub(super) fn dims(&self, argument: &DeclaredArgument, blocks: usize) -> Vec<usize> {
        let of = |axis: &Axis| match axis {
            Axis::Rest => self.rest.clone(),
            Axis::Extent(extent) => vec![self.extents.extent(extent)],
            Axis::Number(number) => vec![*number],
            Axis::Blocks => vec![blocks],
        };
        argument.axes.iter().flat_map(of).collect()
    }

    /// Shape and dtype of an output.
    pub(super) fn output(&self, output: &DeclaredArgument) -> Result<(Shape, DType)> {
        let Element::Of(dtype) = self.element(output) else { unreachable!("outputs have dtypes") };
        let dims = self.dims(output, 0);
        if dims.len() > MAX_RANK {
            let why =
                format!("output {} has {} axes; at most {MAX_RANK} are possible", output.name, dims.len());
            return Err(Error::shape(self.kernel.name, &self.operands(), why));
        }
        self.checked_bytes(output, 0)?;
        Ok((Shape::new(&dims)?, dtype))
    }

    /// Bytes of an argument, for a launch of that number of blocks. Errors if they exceed the address space.
    pub(super) fn checked_bytes(&self, argument: &DeclaredArgument, blocks: usize) -> Result<usize> {
        let (dims, size) = (self.dims(argument, blocks), self.element(argument).size());
        let bytes = dims.into_iter().try_fold(size, |bytes, extent| bytes.checked_mul(extent));
        bytes.filter(|bytes| *bytes <= isize::MAX as usize).ok_or_else(|| {
            let why = format!("argument {} is larger than the address space", argument.name);
            Error::shape(self.kernel.name, &self.operands(), why)
        })
    }

    /// Bytes of inputs and outputs.
    pub(super) fn bytes(&self) -> KernelBytes {
        let of = |argument: &DeclaredArgument| {
            let elements: usize = self.dims(argument, 0).iter().product();
            (elements * self.element(argument).size()) as u64
        };
        let sum = |kind| self.declared.of_kind(kind).map(of).sum();
        KernelBytes { read: sum(ArgumentKind::Input), written: sum(ArgumentKind::Output) }
    }

    fn bind_dtypes(&mut self, expected: &[&DeclaredArgument]) -> Result<()> {
        let mut bound: Vec<Option<(DType, &str)>> = vec![None; self.declared.templates.len()];
        for (argument, t) in expected.iter().zip(self.inputs) {
            let accepted = match argument.element {
                DeclaredElement::Fixed(Element::Of(dtype)) if dtype != t.dtype() => Some(dtype.to_string()),
                DeclaredElement::Fixed(_) => None,
                DeclaredElement::Template(index) => {
                    let (name, dtypes) = &self.declared.templates[index];
                    match bound[index] {
                        Some((dtype, of)) if dtype != t.dtype() => Some(format!("{name} = {dtype}, as {of}")),
                        None if !dtypes.contains(&t.dtype()) => {
                            let list: Vec<String> = dtypes.iter().map(DType::to_string).collect();
                            Some(format!("{name}, one of {}", list.join(", ")))
                        }
                        _ => {
                            bound[index] = Some((t.dtype(), argument.name));
                            None
                        }
                    }
                }
            };
            if let Some(accepted) = accepted {
                return Err(Error::dtype(
                    self.kernel.name,
                    &self.operands(),
                    format!("{} of {accepted}", argument.name),
                ));
            }
        }
        // A template of no input is compiled for its first dtype.
        let dtype = |(bound, (_, dtypes)): (&Option<(DType, &str)>, &(_, Vec<DType>))| {
            bound.map_or(dtypes[0], |(dtype, _)| dtype)
        };
        self.dtypes = bound.iter().zip(&self.declared.templates).map(dtype).collect();
        Ok(())
    }

    fn bind_shape(
        &mut self,
        argument: &DeclaredArgument,
        t: &Tensor,
        rest: &mut Option<Vec<usize>>,
    ) -> Result<()> {
        let (axes, dims) = (&argument.axes, t.dims());
        let rest_at = axes.iter().position(|axis| *axis == Axis::Rest);
        let fits = match rest_at {
            Some(_) => dims.len() + 1 >= axes.len(),
            None => dims.len() == axes.len(),
        };
        if !fits {
            return Err(self.shape_error(argument, "has another number of axes".into()));
        }
        let mut dims = dims.iter().copied();
        for axis in axes {
            match axis {
                Axis::Rest => {
                    let taken: Vec<usize> = dims.by_ref().take(t.rank() + 1 - axes.len()).collect();
                    match rest {
                        Some(known) if *known != taken => {
                            return Err(self.shape_error(
                                argument,
                                format!("`..` stands for {known:?} in an input before it"),
                            ));
                        }
                        _ => *rest = Some(taken),
                    }
                }
                Axis::Extent(name) => {
                    let extent = dims.next().expect("the number of axes fits");
                    match self.extents.get(name) {
                        Some(known) if known != extent => {
                            return Err(self
                                .shape_error(argument, format!("{name} is {known} in an input before it")));
                        }
                        Some(_) => {}
                        None => self.extents.values.push((name, extent)),
                    }
                }
                Axis::Number(number) => {
                    if dims.next() != Some(*number) {
                        return Err(self.shape_error(argument, format!("an extent is not {number}")));
                    }
                }
                Axis::Blocks => unreachable!("only scratch memory has an extent of blocks"),
            }
        }
        Ok(())
    }

    fn shape_error(&self, argument: &DeclaredArgument, why: String) -> Error {
        let why = format!("{} must be {}; {why}", argument.name, argument.type_text);
        Error::shape(self.kernel.name, &self.operands(), why)
    }
}
