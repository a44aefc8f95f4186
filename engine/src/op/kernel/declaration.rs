//! Declaration of a kernel, parsed and checked once.
use super::argument::{ArgumentKind, ArgumentType, Axis, Element, ShapeType, name};
use super::geometry::GeometryKind;
use super::{Geometry, Kernel};
use crate::DType;
use std::panic::Location;

/// Text of a kernel as declared.
#[derive(Clone, Copy, Debug)]
pub(super) enum KernelText {
    /// A whole kernel.
    Source(&'static str),
    /// The computation of one element, and where it was declared.
    Body { text: &'static str, location: &'static Location<'static> },
    /// Compiled code.
    Image(&'static [u8]),
}

/// Maximum number of parameters of a kernel, as of a launch.
const MAX_PARAMETERS: usize = 32;

/// Checked declaration.
#[derive(Debug)]
pub(super) struct Declaration {
    pub(super) templates: Vec<(&'static str, Vec<DType>)>,
    pub(super) arguments: Vec<DeclaredArgument>,
    pub(super) scalars: Vec<(&'static str, ScalarType)>,
    pub(super) constants: Vec<(&'static str, i64)>,
    /// Named extents in the order in which they first occur.
    pub(super) extents: Vec<&'static str>,
    pub(super) geometry: Geometry,
    pub(super) text: KernelText,
}

/// Checked argument.
#[derive(Debug)]
pub(super) struct DeclaredArgument {
    pub(super) kind: ArgumentKind,
    pub(super) name: &'static str,
    pub(super) type_text: &'static str,
    pub(super) element: DeclaredElement,
    pub(super) axes: Vec<Axis<'static>>,
    pub(super) is_zeroed: bool,
}

/// Element of an argument: fixed, or of the template at an index.
#[derive(Clone, Copy, Debug)]
pub(super) enum DeclaredElement {
    Fixed(Element),
    Template(usize),
}

/// Type of a number that is passed by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScalarType {
    F32,
    I32,
    I64,
}

impl ScalarType {
    pub(super) fn c_type(self) -> &'static str {
        match self {
            ScalarType::F32 => "float",
            ScalarType::I32 => "int",
            ScalarType::I64 => "long long",
        }
    }
}

impl Declaration {
    /// The error is what is wrong, with the name of the argument.
    pub(super) fn parse(kernel: &Kernel) -> Result<Declaration, String> {
        name(kernel.name).map_err(|why| format!("the kernel's name: {why}"))?;
        let mut declared = Declaration {
            templates: kernel.templates.iter().map(|t| (t.name, t.dtypes.iter().collect())).collect(),
            arguments: vec![],
            scalars: vec![],
            constants: kernel.constants.iter().collect(),
            extents: vec![],
            geometry: kernel.geometry.unwrap_or(Geometry::elementwise("")),
            text: kernel.text.ok_or("it has no text; add a body, a source or an image")?,
        };
        for (template, dtypes) in &declared.templates {
            if dtypes.is_empty() || dtypes.contains(&DType::F64) {
                return Err(format!(
                    "template {template}: its dtypes are some of f32, f16, bf16, i64 and u8"
                ));
            }
        }
        for argument in kernel.arguments.iter() {
            let parsed = ArgumentType::parse(argument.type_text)
                .and_then(|parsed| {
                    declared.argument(argument.kind, argument.name, argument.type_text, parsed)
                })
                .map_err(|why| format!("argument {}: {why}", argument.name))?;
            declared.arguments.push(parsed);
        }
        for (scalar, text) in kernel.scalars.iter() {
            let of = match text {
                "f32" => ScalarType::F32,
                "i32" => ScalarType::I32,
                "i64" => ScalarType::I64,
                _ => return Err(format!("scalar {scalar}: `{text}` is not f32, i32 or i64")),
            };
            declared.scalars.push((scalar, of));
        }
        declared.geometry = declared.checked_geometry(kernel.geometry)?;
        declared.check_names()?;
        if let KernelText::Body { .. } = declared.text {
            declared.check_body()?;
        }
        Ok(declared)
    }

    /// The argument of that name.
    pub(super) fn argument_named(&self, name: &str) -> Option<&DeclaredArgument> {
        self.arguments.iter().find(|argument| argument.name == name)
    }

    /// Arguments of a kind.
    pub(super) fn of_kind(&self, kind: ArgumentKind) -> impl Iterator<Item = &DeclaredArgument> {
        self.arguments.iter().filter(move |argument| argument.kind == kind)
    }

    /// The argument whose elements the geometry divides.
    pub(super) fn divided(&self) -> Option<&DeclaredArgument> {
        self.argument_named(self.geometry.divided()?.0)
    }

    /// Checks an argument against the templates and the arguments before it.
    fn argument(
        &mut self,
        kind: ArgumentKind,
        name: &'static str,
        type_text: &'static str,
        parsed: ArgumentType<'static>,
    ) -> Result<DeclaredArgument, String> {
        let template = self.templates.iter().position(|(template, _)| *template == parsed.element);
        let element = match (template, Element::named(parsed.element)) {
            (Some(index), _) => DeclaredElement::Template(index),
            (None, Some(element)) => DeclaredElement::Fixed(element),
            _ => {
                let why = "is no template of the kernel, nor one of f32, f16, bf16, i64, u8, and for scratch memory u32 and i32";
                return Err(format!("the element `{}` {why}", parsed.element));
            }
        };
        if let (
            DeclaredElement::Fixed(Element::U32 | Element::I32),
            ArgumentKind::Input | ArgumentKind::Output,
        ) = (element, kind)
        {
            return Err("u32 and i32 are elements of scratch memory only".into());
        }
        if let DeclaredElement::Template(index) = element
            && kind != ArgumentKind::Input
            && !self
                .of_kind(ArgumentKind::Input)
                .any(|input| matches!(input.element, DeclaredElement::Template(i) if i == index))
        {
            return Err(format!(
                "no input before it has the template {}, which gives its dtype",
                parsed.element
            ));
        }
        if parsed.is_zeroed && kind == ArgumentKind::Input {
            return Err("an input cannot be zeroed".into());
        }
        let axes = match parsed.shape {
            ShapeType::Axes(axes) => axes,
            ShapeType::Like(of) => {
                let other =
                    self.argument_named(of).ok_or_else(|| format!("no argument {of} comes before it"))?;
                other.axes.clone()
            }
        };
        for axis in &axes {
            match axis {
                Axis::Extent(extent) if kind == ArgumentKind::Input && !self.extents.contains(extent) => {
                    self.extents.push(extent);
                }
                Axis::Extent(extent) if !self.extents.contains(extent) => {
                    return Err(format!("no input before it has the extent {extent}"));
                }
                Axis::Rest
                    if kind != ArgumentKind::Input
                        && !self.of_kind(ArgumentKind::Input).any(DeclaredArgument::has_rest) =>
                {
                    return Err("no input before it has the axes `..`".into());
                }
                Axis::Blocks if kind != ArgumentKind::Scratch => {
                    return Err("blocks is an extent of scratch memory only".into());
                }
                _ => {}
            }
        }
        Ok(DeclaredArgument { kind, name, type_text, element, axes, is_zeroed: parsed.is_zeroed })
    }

    fn checked_geometry(&self, given: Option<Geometry>) -> Result<Geometry, String> {
        let first = self.of_kind(ArgumentKind::Output).next().ok_or("it has no output")?.name;
        let geometry = match (given, self.text) {
            (Some(geometry), _) => geometry,
            (None, KernelText::Body { .. }) => Geometry::elementwise(first),
            (None, _) => return Err("a whole kernel has no geometry; add one".into()),
        };
        if !(1..=1024).contains(&geometry.threads) {
            return Err(format!("geometry: {} threads per block; 1 to 1024 are possible", geometry.threads));
        }
        if !geometry.vector.is_power_of_two() || geometry.vector > 16 {
            return Err(format!(
                "geometry: {} elements per thread; 1, 2, 4, 8 and 16 are possible",
                geometry.vector
            ));
        }
        if let Some((of, extent)) = geometry.divided() {
            let argument = self.argument_named(of).filter(|argument| argument.kind != ArgumentKind::Scratch);
            let argument = argument.ok_or_else(|| format!("geometry: `{of}` is no input or output"))?;
            let last = argument.axes.last();
            if let Some(extent) = extent.filter(|extent| last != Some(&Axis::Extent(extent))) {
                return Err(format!(
                    "geometry: the last axis of {of} is not {extent}; rows are adjacent in memory"
                ));
            }
        }
        let uses_blocks = self.arguments.iter().any(|argument| argument.axes.contains(&Axis::Blocks));
        if uses_blocks && matches!(geometry.kind, GeometryKind::Elementwise { .. }) {
            return Err("the number of blocks of an elementwise geometry depends on the device; use rows, reduce or grid".into());
        }
        Ok(geometry)
    }

    /// Errors unless all names of the text differ, and there are few enough parameters.
    fn check_names(&self) -> Result<(), String> {
        let parameters: Vec<&str> = (self.arguments.iter().map(|argument| argument.name))
            .chain(self.scalars.iter().map(|(name, _)| *name))
            .chain(self.extents.iter().copied())
            .chain(self.geometry.count_name())
            .collect();
        let others = (self.templates.iter().map(|(name, _)| *name))
            .chain(self.constants.iter().map(|(name, _)| *name))
            .chain(["V", "THREADS", "PARAMETERS", "blocks"]);
        let all: Vec<&str> = parameters.iter().copied().chain(others).collect();
        for (i, text) in all.iter().enumerate() {
            name(text)?;
            if all[..i].contains(text) {
                return Err(format!("the name {text} is used twice, or has a meaning of its own"));
            }
        }
        if parameters.len() > MAX_PARAMETERS {
            return Err(format!("{} parameters; at most {MAX_PARAMETERS} are possible", parameters.len()));
        }
        Ok(())
    }

    /// Errors unless a generated loop can compute the arguments element by element.
    fn check_body(&self) -> Result<(), String> {
        let GeometryKind::Elementwise { of } = self.geometry.kind else {
            return Err("a body has an elementwise geometry; write a whole kernel for others".into());
        };
        let axes = &self.argument_named(of).expect("the geometry is checked").axes;
        for argument in &self.arguments {
            let is_float = |dtype: &DType| matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
            let fits = match argument.element {
                DeclaredElement::Fixed(Element::Of(dtype)) => is_float(&dtype),
                DeclaredElement::Fixed(_) => false,
                DeclaredElement::Template(index) => self.templates[index].1.iter().all(is_float),
            };
            let what = format!("argument {} of a body", argument.name);
            match argument.kind {
                _ if !fits => return Err(format!("{what} is not f32, f16 or bf16; write a whole kernel")),
                ArgumentKind::Scratch => {
                    return Err(format!("{what} is scratch memory, which a body cannot use"));
                }
                ArgumentKind::Output if argument.axes != *axes => {
                    return Err(format!("{what} has another shape than {of}"));
                }
                ArgumentKind::Input if !axes.ends_with(&argument.axes) => {
                    return Err(format!("{what} has neither the shape of {of} nor its last axes"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl DeclaredArgument {
    pub(super) fn has_rest(&self) -> bool {
        self.axes.contains(&Axis::Rest)
    }
}
