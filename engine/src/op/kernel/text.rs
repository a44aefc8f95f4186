//! The text of a kernel that is compiled, for given dtypes and elements per thread.
use super::argument::{ArgumentKind, Axis, Element};
use super::declaration::{Declaration, DeclaredArgument, DeclaredElement, KernelText};
use crate::DType;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::Location;

/// A kernel for given dtypes and elements per thread.
#[derive(Debug)]
pub(super) struct Variant {
    pub(super) dtypes: Vec<DType>,
    pub(super) vector: usize,
    /// Name in the cache on disk and in errors.
    pub(super) source_name: String,
    /// Name with a hash of the text, which differs from the key of every other kernel.
    pub(super) key: String,
    pub(super) code: Code,
}

/// Code of a variant.
#[derive(Debug)]
pub(super) enum Code {
    Text(String),
    /// Compiled code, with a NUL at its end, as the driver reads PTX.
    Image(Vec<u8>),
}

impl Variant {
    pub(super) fn new(kernel: &str, declared: &Declaration, dtypes: &[DType], vector: usize) -> Variant {
        let names = dtypes.iter().map(|dtype| format!("_{dtype}"));
        let source_name = fornax_kernels::declared_name(kernel) + &names.collect::<String>();
        let code = match declared.text {
            KernelText::Image(image) => Code::Image(image.iter().copied().chain([0]).collect()),
            KernelText::Source(text) => {
                let prelude = prelude("fornax.cuh", declared, dtypes, vector);
                Code::Text(format!("{prelude}#line 1 \"{kernel}.cu\"\n{text}\n"))
            }
            KernelText::Body { text, location } => {
                Code::Text(elementwise(kernel, declared, dtypes, text, location))
            }
        };
        let mut hasher = DefaultHasher::new();
        match &code {
            Code::Text(text) => text.hash(&mut hasher),
            Code::Image(image) => image.hash(&mut hasher),
        }
        let key = format!("{source_name}-{:016x}", hasher.finish());
        Variant { dtypes: dtypes.to_vec(), vector, source_name, key, code }
    }
}

/// The parameters of the kernel.
pub(super) fn parameters(declared: &Declaration) -> String {
    let pointers = declared.arguments.iter().map(|argument| {
        let constant = if argument.kind == ArgumentKind::Input { "const " } else { "" };
        format!("{constant}{}* __restrict__ {}", element_type(declared, argument), argument.name)
    });
    let scalars = declared.scalars.iter().map(|(name, of)| format!("const {} {name}", of.c_type()));
    let counts = declared.extents.iter().copied().chain(declared.geometry.count_name());
    let counts = counts.map(|name| format!("const long long {name}"));
    pointers.chain(scalars).chain(counts).collect::<Vec<_>>().join(", ")
}

fn element_type(declared: &Declaration, argument: &DeclaredArgument) -> &'static str {
    match argument.element {
        DeclaredElement::Fixed(element) => element.c_type(),
        DeclaredElement::Template(index) => declared.templates[index].0,
    }
}

/// Header, types, constants and the macro of the parameters.
fn prelude(header: &str, declared: &Declaration, dtypes: &[DType], vector: usize) -> String {
    let mut text = format!("#include \"{header}\"\n");
    for ((name, _), dtype) in declared.templates.iter().zip(dtypes) {
        let _ = writeln!(text, "typedef {} {name};", Element::Of(*dtype).c_type());
    }
    for (name, value) in &declared.constants {
        let _ = writeln!(text, "[[maybe_unused]] constexpr long long {name} = {value};");
    }
    let threads = declared.geometry.threads;
    let _ = writeln!(text, "[[maybe_unused]] constexpr int V = {vector}, THREADS = {threads};");
    let _ = writeln!(text, "#define PARAMETERS {}", parameters(declared));
    text
}

/// A loop over elements around a body: in packs of 16 bytes where all pointers are aligned, otherwise and at the end by elements.
fn elementwise(
    kernel: &str,
    declared: &Declaration,
    dtypes: &[DType],
    body: &str,
    location: &Location,
) -> String {
    let (of, _) = declared.geometry.divided().expect("the geometry of a body is checked");
    let axes = &declared.argument_named(of).expect("the geometry is checked").axes;
    let size = |argument: &DeclaredArgument| match argument.element {
        DeclaredElement::Fixed(element) => element.size(),
        DeclaredElement::Template(index) => dtypes[index].size(),
    };
    let pack = 16 / declared.arguments.iter().map(size).min().expect("a body has an output");
    let scalars = || declared.scalars.iter().map(|(name, of)| format!("const {} {name}", of.c_type()));
    let values = declared.arguments.iter().map(|argument| match argument.kind {
        ArgumentKind::Input => format!("const float {}", argument.name),
        _ => format!("float& {}", argument.name),
    });
    let values = values.chain(scalars()).collect::<Vec<_>>().join(", ");
    let file = location.file().replace('\\', "/");
    let mut text = prelude("fuse.cuh", declared, dtypes, 1);
    let _ = write!(
        text,
        "namespace {{\n__device__ __forceinline__ void body({values}) {{\n#line {} \"{file}\"\n{body}\n}}\n\
         #line 1 \"{kernel}, generated\"\n\
         template <int W> __device__ __forceinline__ void element(PARAMETERS, const long long i) {{\n",
        location.line(),
    );
    let mut whole_packs = vec![];
    for argument in &declared.arguments {
        let name = argument.name;
        match (argument.kind, modulus(axes, argument)) {
            (ArgumentKind::Input, Some(modulus)) if modulus == "1" => {
                let _ = writeln!(text, "  const float {name}_value = to_float(*{name});");
            }
            (ArgumentKind::Input, modulus) => {
                let at = match modulus {
                    Some(modulus) => format!("(unsigned long long)i % ({modulus})"),
                    None => "i".into(),
                };
                let _ =
                    writeln!(text, "  float {name}_values[W];\n  fetch<W>({name} + {at}, {name}_values);");
            }
            _ => {
                let _ = writeln!(text, "  float {name}_values[W];");
            }
        }
        match modulus(axes, argument) {
            None => whole_packs.push(format!("aligned({name})")),
            Some(modulus) if modulus != "1" => {
                whole_packs.push(format!("aligned({name}) && ({modulus}) % {pack} == 0"));
            }
            _ => {}
        }
    }
    let at_k = declared.arguments.iter().map(|argument| match modulus(axes, argument) {
        Some(modulus) if modulus == "1" => format!("{}_value", argument.name),
        _ => format!("{}_values[k]", argument.name),
    });
    let at_k = at_k.chain(declared.scalars.iter().map(|(name, _)| name.to_string()));
    let _ = writeln!(
        text,
        "#pragma unroll\n  for (int k = 0; k < W; k++) body({});",
        at_k.collect::<Vec<_>>().join(", ")
    );
    for output in declared.of_kind(ArgumentKind::Output) {
        let _ = writeln!(text, "  put<W>({0} + i, {0}_values);", output.name);
    }
    let names = (declared.arguments.iter().map(|argument| argument.name))
        .chain(declared.scalars.iter().map(|(name, _)| *name))
        .chain(declared.extents.iter().copied())
        .chain(["numel"]);
    let (names, whole_packs) = (names.collect::<Vec<_>>().join(", "), whole_packs.join(" && "));
    let _ = write!(
        text,
        "}}\n}}  // namespace\n\nextern \"C\" __global__ void __launch_bounds__(THREADS) {kernel}(PARAMETERS) {{\n  \
         const long long first = (long long)blockIdx.x * THREADS + threadIdx.x, step = (long long)gridDim.x * THREADS;\n  \
         const long long packs = {whole_packs} ? numel / {pack} : 0;\n  \
         for (long long i = first; i < packs; i += step) element<{pack}>({names}, i * {pack});\n  \
         for (long long i = packs * {pack} + first; i < numel; i += step) element<1>({names}, i);\n}}\n"
    );
    text
}

/// Number of elements after which an input repeats, as an expression; `None` for one that has the shape of the output.
fn modulus(axes: &[Axis], argument: &DeclaredArgument) -> Option<String> {
    if argument.axes == *axes {
        return None;
    }
    let factors: Vec<String> = (argument.axes.iter())
        .map(|axis| match axis {
            Axis::Number(number) => number.to_string(),
            Axis::Extent(extent) => extent.to_string(),
            Axis::Rest | Axis::Blocks => unreachable!("the axes of a body's inputs are checked"),
        })
        .collect();
    Some(if factors.is_empty() { "1".into() } else { factors.join(" * ") })
}
