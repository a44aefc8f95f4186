//! Arguments of a kernel as they are declared, and their types, parsed.
use crate::DType;

/// List of at most N values, which can be built in a constant.
#[derive(Clone, Copy, Debug)]
pub(super) struct List<T: Copy, const N: usize> {
    values: [Option<T>; N],
    len: usize,
}

impl<T: Copy, const N: usize> List<T, N> {
    pub(super) const fn new() -> List<T, N> {
        List { values: [None; N], len: 0 }
    }

    pub(super) const fn push(&mut self, value: T) {
        assert!(self.len < N, "a kernel's declaration has too many entries of one kind");
        self.values[self.len] = Some(value);
        self.len += 1;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.values[..self.len].iter().flatten().copied()
    }
}

/// Argument as declared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Argument {
    pub(super) kind: ArgumentKind,
    pub(super) name: &'static str,
    /// Type, not parsed.
    pub(super) type_text: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArgumentKind {
    Input,
    Output,
    Scratch,
}

impl Argument {
    pub(super) const fn input(name: &'static str, type_text: &'static str) -> Argument {
        Argument { kind: ArgumentKind::Input, name, type_text }
    }

    pub(super) const fn output(name: &'static str, type_text: &'static str) -> Argument {
        Argument { kind: ArgumentKind::Output, name, type_text }
    }

    pub(super) const fn scratch(name: &'static str, type_text: &'static str) -> Argument {
        Argument { kind: ArgumentKind::Scratch, name, type_text }
    }
}

/// Parsed type of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ArgumentType<'a> {
    pub(super) element: &'a str,
    pub(super) shape: ShapeType<'a>,
    pub(super) is_zeroed: bool,
}

/// Parsed shape of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ShapeType<'a> {
    /// The shape of another argument.
    Like(&'a str),
    Axes(Vec<Axis<'a>>),
}

/// Axis of an argument, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Axis<'a> {
    /// `..`: any number of axes.
    Rest,
    Extent(&'a str),
    Number(usize),
    /// `blocks`: the number of blocks of the launch.
    Blocks,
}

impl<'a> ArgumentType<'a> {
    /// Parses `T[.., c]`, `T like x`, with `zeroed` at the end or without. The error is what is wrong.
    pub(super) fn parse(text: &'a str) -> Result<ArgumentType<'a>, String> {
        let (text, is_zeroed) = match text.trim().strip_suffix("zeroed") {
            Some(rest) => (rest.trim_end(), true),
            None => (text.trim(), false),
        };
        if let Some((element, of)) = text.split_once(" like ") {
            let (element, of) = (name(element)?, name(of)?);
            return Ok(ArgumentType { element, shape: ShapeType::Like(of), is_zeroed });
        }
        let (element, axes) = text
            .split_once('[')
            .and_then(|(element, rest)| Some((element, rest.strip_suffix(']')?)))
            .ok_or_else(|| format!("`{text}` is neither `ELEMENT[AXES]` nor `ELEMENT like ARGUMENT`"))?;
        let axes = match axes.trim() {
            "" => vec![],
            axes => axes.split(',').map(Axis::parse).collect::<Result<Vec<_>, _>>()?,
        };
        if axes.iter().filter(|axis| **axis == Axis::Rest).count() > 1 {
            return Err("`..` occurs twice; it may stand for axes at one position only".into());
        }
        Ok(ArgumentType { element: name(element)?, shape: ShapeType::Axes(axes), is_zeroed })
    }
}

impl<'a> Axis<'a> {
    fn parse(text: &'a str) -> Result<Axis<'a>, String> {
        match text.trim() {
            ".." => Ok(Axis::Rest),
            "blocks" => Ok(Axis::Blocks),
            number if number.starts_with(|c: char| c.is_ascii_digit()) => {
                let invalid = |_| format!("the extent `{number}` is not a number");
                number.parse().map(Axis::Number).map_err(invalid)
            }
            extent => name(extent).map(Axis::Extent),
        }
    }
}

/// The text as an identifier of CUDA.
pub(super) fn name(text: &str) -> Result<&str, String> {
    let text = text.trim();
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    match starts && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        true => Ok(text),
        false => Err(format!("`{text}` is not a name of letters, digits and `_`")),
    }
}

/// Element of an argument in memory: a dtype, or a 32-bit integer of scratch memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Element {
    Of(DType),
    U32,
    I32,
}

impl Element {
    /// The element of that name; `None` for others and for f64, which no CUDA device of Fornax stores.
    pub(super) fn named(name: &str) -> Option<Element> {
        match name {
            "u32" => Some(Element::U32),
            "i32" => Some(Element::I32),
            "f64" => None,
            _ => DType::ALL.into_iter().find(|dtype| dtype.to_string() == name).map(Element::Of),
        }
    }

    pub(super) fn size(self) -> usize {
        match self {
            Element::Of(dtype) => dtype.size(),
            Element::U32 | Element::I32 => 4,
        }
    }

    pub(super) fn c_type(self) -> &'static str {
        match self {
            Element::Of(DType::F32) => "float",
            Element::Of(DType::F16) => "half16",
            Element::Of(DType::BF16) => "bfloat16",
            Element::Of(DType::F64) => "double",
            Element::Of(DType::I64) => "long long",
            Element::Of(DType::U8) => "unsigned char",
            Element::U32 => "unsigned",
            Element::I32 => "int",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_parsed() {
        let axes = |list: Vec<Axis<'static>>| ShapeType::Axes(list);
        let parse = |text| ArgumentType::parse(text).expect(text);
        let of = |element, shape, is_zeroed| ArgumentType { element, shape, is_zeroed };
        assert_eq!(parse("T[.., c]"), of("T", axes(vec![Axis::Rest, Axis::Extent("c")]), false));
        assert_eq!(parse("T like x"), of("T", ShapeType::Like("x"), false));
        assert_eq!(parse(" f32 like x zeroed"), of("f32", ShapeType::Like("x"), true));
        let blocks = vec![Axis::Blocks, Axis::Number(3)];
        assert_eq!(parse("u32[blocks, 3] zeroed"), of("u32", axes(blocks), true));
        assert_eq!(parse("f32[]"), of("f32", axes(vec![]), false));
    }

    #[test]
    fn invalid_types_are_errors() {
        for (text, why) in [
            ("f32", "neither `ELEMENT[AXES]`"),
            ("f32[n", "neither `ELEMENT[AXES]`"),
            ("T[.., c, ..]", "occurs twice"),
            ("T[c d]", "`c d` is not a name"),
            ("T[3x]", "`3x` is not a number"),
            ("T[n,]", "`` is not a name"),
        ] {
            let error = ArgumentType::parse(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
