//! Text of the header `arguments.cuh`: the constants, enums and structs of `src/arguments.rs` in CUDA C++.
use std::collections::HashMap;
use std::fmt::Write;

/// The header.
pub fn text() -> String {
    let mut header = Header::default();
    header.text.push_str(
        "// Arguments that kernels take by value. Written by kernels/build.rs from kernels/src/arguments.rs.\n#pragma once\n",
    );
    declare_arguments(&mut header);
    header.text
}

/// Defines `declare_arguments`, which adds each declaration to a header.
macro_rules! arguments {
    ($($item:tt)*) => {
        fn declare_arguments(header: &mut Header) {
            declare!(header $($item)*);
        }
    };
}

macro_rules! declare {
    ($header:ident) => {};
    ($header:ident $(#[doc = $doc:literal])* pub const $name:ident: usize = $value:literal; $($rest:tt)*) => {
        $header.constant(&[$($doc),*], stringify!($name), $value);
        declare!($header $($rest)*);
    };
    ($header:ident $(#[doc = $doc:literal])* pub enum $name:ident {
        $($(#[doc = $variant_doc:literal])* $variant:ident,)*
    } $($rest:tt)*) => {
        $header.enumeration(&[$($doc),*], stringify!($name), &[$((&[$($variant_doc),*], stringify!($variant))),*]);
        declare!($header $($rest)*);
    };
    ($header:ident $(#[doc = $doc:literal])* pub struct $name:ident {
        $($(#[doc = $field_doc:literal])* pub $field:ident: $type:ty,)*
    } $($rest:tt)*) => {
        $header.structure(
            &[$($doc),*],
            stringify!($name),
            &[$((&[$($field_doc),*], stringify!($field), stringify!($type))),*],
        );
        declare!($header $($rest)*);
    };
}

include!("../src/arguments.rs");

#[derive(Default)]
struct Header {
    text: String,
    constants: HashMap<&'static str, usize>,
    /// Bytes of the enums and structs so far.
    sizes: HashMap<&'static str, usize>,
}

/// Lines of documentation.
type Docs = &'static [&'static str];

impl Header {
    fn constant(&mut self, docs: Docs, name: &'static str, value: usize) {
        self.document("\n", docs);
        writeln!(self.text, "constexpr int k{} = {value};", camel_case(name)).unwrap();
        self.constants.insert(name, value);
    }

    fn enumeration(&mut self, docs: Docs, name: &'static str, variants: &[(Docs, &str)]) {
        self.document("\n", docs);
        writeln!(self.text, "enum {name} : int {{").unwrap();
        for (docs, variant) in variants {
            self.document("", docs);
            writeln!(self.text, "  k{variant},").unwrap();
        }
        self.text.push_str("};\n");
        self.sizes.insert(name, 4);
    }

    fn structure(&mut self, docs: Docs, name: &'static str, fields: &[(Docs, &str, &str)]) {
        self.document("\n", docs);
        writeln!(self.text, "struct {name} {{").unwrap();
        let mut size = 0;
        for (docs, field, of) in fields {
            let (of, bytes, extent) = self.field_type(of);
            self.document("", docs);
            writeln!(self.text, "  {of} {field}{extent};").unwrap();
            size += bytes;
        }
        // The crate checks at compile time that its struct has no padding: with the same fields and the same size this one has none either.
        writeln!(self.text, "}};\nstatic_assert(sizeof({name}) == {size}, \"{name} has padding\");").unwrap();
        self.sizes.insert(name, size);
    }

    fn document(&mut self, before: &str, docs: Docs) {
        self.text.push_str(before);
        let indent = if before.is_empty() { "  " } else { "" };
        docs.iter().for_each(|line| writeln!(self.text, "{indent}///{line}").unwrap());
    }

    /// Type of a field in C++, its bytes, and the extent of an array.
    fn field_type(&self, rust: &str) -> (String, usize, String) {
        let rust: String = rust.split_whitespace().collect();
        if let Some((of, count)) =
            rust.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')?.split_once(';'))
        {
            let (of, bytes, _) = self.field_type(of);
            let (count, extent) = match self.constants.get(count) {
                Some(value) => (*value, format!("k{}", camel_case(count))),
                None => (count.parse().expect("an extent is a number or a constant"), count.to_string()),
            };
            return (of, bytes * count, format!("[{extent}]"));
        }
        let pointee = |prefix: &str| Some(self.base_type(rust.strip_prefix(prefix)?.strip_suffix('>')?).0);
        let (of, bytes) = match (pointee("Address<"), pointee("AddressMut<")) {
            (Some(pointee), _) => (format!("const {pointee}*"), 8),
            (_, Some(pointee)) => (format!("{pointee}*"), 8),
            _ if pointee("AddressBits<").is_some() => ("unsigned long long".to_string(), 8),
            _ => self.base_type(&rust),
        };
        (of, bytes, String::new())
    }

    fn base_type(&self, rust: &str) -> (String, usize) {
        let (name, bytes) = match rust {
            "Any" => ("void", 0),
            "u32" => ("unsigned", 4),
            "i32" => ("int", 4),
            "f32" => ("float", 4),
            "i64" => ("long long", 8),
            "f64" => ("double", 8),
            declared => {
                (declared, *self.sizes.get(declared).unwrap_or_else(|| panic!("{declared} is not declared")))
            }
        };
        (name.to_string(), bytes)
    }
}

/// `PackChunk` of `PACK_CHUNK`.
fn camel_case(constant: &str) -> String {
    let word = |word: &str| word[..1].to_string() + &word[1..].to_lowercase();
    constant.split('_').map(word).collect()
}
