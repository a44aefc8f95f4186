//! CUDA kernels by declaration: a [`Kernel`] states its arguments, its geometry and its text; memory, checks and the launch follow from
//! that.
mod argument;
mod binding;
mod cpu;
mod cuda;
mod declaration;
mod geometry;
mod plan;
mod text;

pub use geometry::{Geometry, LaunchExtents};

use super::with_derivative;
use crate::autograd::{Derivative, Gradients, Saved};
use crate::{DType, Device, Result, Tensor};
use argument::{Argument, List};
use binding::Binding;
use declaration::{Declaration, KernelText};
use plan::numbers;
use std::panic::Location;
use std::sync::{Arc, Mutex, OnceLock};
use text::Variant;

/// A CUDA kernel by declaration. It runs on CUDA devices, compiled by NVRTC, on the emulated device, and on the CPU, where g++ compiles the
/// same text.
///
/// ```
/// use fornax_engine::DType::{BF16, F16, F32};
/// use fornax_engine::{Result, Tensor, op::Kernel};
///
/// static SQUARED_RELU: Kernel = Kernel::new("squared_relu")
///     .template("T", [F32, F16, BF16])
///     .input("x", "T[..]")
///     .output("y", "T like x")
///     .body("const float r = x > 0 ? x : 0; y = r * r;");
///
/// # fn main() -> Result<()> {
/// let x = Tensor::from_slice(&[-1.0f32, 0.5, 3.0], [3])?;
/// let y = SQUARED_RELU.run(&[&x])?.remove(0);
/// assert_eq!(y.to_vec::<f32>()?, [0.0, 0.25, 9.0]);
/// # Ok(()) }
/// ```
///
/// # Arguments
/// An argument has a type, its element and shape:
///
/// | type | meaning |
/// |---|---|
/// | `f32[n, c]` | f32 with two axes. An extent is a name, equal wherever it occurs, or a number. |
/// | `T[.., c]` | One of the dtypes of the template `T`; `..` stands for any number of axes, the same wherever it occurs. |
/// | `T like x` | One of the dtypes of `T`, in the shape of the argument `x`. |
/// | `f32[c] zeroed` | An output or scratch memory that is filled with zeros before the launch. |
/// | `f32[blocks, c]` | Scratch memory; `blocks` is the number of blocks of the launch. |
///
/// Elements are `f32`, `f16`, `bf16`, `i64` and `u8`; scratch memory may also have `u32` and `i32`.
///
/// # Text
/// [`Kernel::body`] is the computation of one element; the loop around it is generated. [`Kernel::source`] is a whole kernel,
/// `extern "C" __global__ void name(PARAMETERS)`, where `PARAMETERS` is a macro of its parameters: a pointer for each argument in the order
/// of declaration, the scalars, the named extents as `long long` in the order in which they first occur, and the number of elements or rows
/// of the geometry ([`Geometry`]); [`Kernel::parameters`] returns them. The text can use:
///
/// - the templates as types: `float`, `half16` or `bfloat16`, with `to_float(x)` and `from_float<T>(x)`;
/// - `V`, the elements per thread, and `THREADS`, the threads per block, of the geometry, and the [constants](Kernel::constant);
/// - headers of Fornax, such as `#include "channels.cuh"` (rows of channels) or `#include "rows.cuh"` (reductions of rows). No CUDA header
///   is available.
///
/// # CUDA graphs
/// A launch allocates from the arena, reads nothing on the host and does not synchronise, so it can be captured in a
/// [`CudaGraph`](crate::cuda::CudaGraph), also at its first use.
///
/// # Errors
/// The declaration is checked at the first run; an error names the kernel, the argument and the mistake. An error of the compiler names the
/// file and line of the user's text ([`Kernel::body`], [`cuda_source!`](crate::cuda_source)).
#[derive(Debug)]
pub struct Kernel {
    name: &'static str,
    templates: List<Template, 4>,
    arguments: List<Argument, 24>,
    scalars: List<(&'static str, &'static str), 8>,
    constants: List<(&'static str, i64), 16>,
    geometry: Option<Geometry>,
    text: Option<KernelText>,
    location: &'static Location<'static>,
    declaration: OnceLock<std::result::Result<Declaration, String>>,
    variants: Mutex<Vec<Arc<Variant>>>,
}

/// Type parameter of a kernel's text, and its dtypes.
#[derive(Clone, Copy, Debug)]
struct Template {
    name: &'static str,
    dtypes: List<DType, 5>,
}

/// Bytes that a kernel reads and writes by its declaration: each input once, each output once. Scratch memory does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelBytes {
    /// Bytes of the inputs.
    pub read: u64,
    /// Bytes of the outputs.
    pub written: u64,
}

/// Declaration. All methods are `const`, so a kernel can be a `static`.
impl Kernel {
    /// A kernel without arguments. `name` is the name of the `__global__` function, and of the kernel in errors and profiles.
    #[track_caller]
    pub const fn new(name: &'static str) -> Kernel {
        Kernel {
            name,
            templates: List::new(),
            arguments: List::new(),
            scalars: List::new(),
            constants: List::new(),
            geometry: None,
            text: None,
            location: Location::caller(),
            declaration: OnceLock::new(),
            variants: Mutex::new(vec![]),
        }
    }

    /// Adds a type parameter: the text is compiled for each dtype that is used, with `name` as its type.
    pub const fn template<const N: usize>(mut self, name: &'static str, dtypes: [DType; N]) -> Kernel {
        let mut list = List::new();
        let mut i = 0;
        while i < N {
            list.push(dtypes[i]);
            i += 1;
        }
        self.templates.push(Template { name, dtypes: list });
        self
    }

    /// Adds an input, a `const` pointer.
    pub const fn input(mut self, name: &'static str, type_text: &'static str) -> Kernel {
        self.arguments.push(Argument::input(name, type_text));
        self
    }

    /// Adds an output, a new tensor. The kernel writes all of its elements, unless its type is `zeroed`.
    pub const fn output(mut self, name: &'static str, type_text: &'static str) -> Kernel {
        self.arguments.push(Argument::output(name, type_text));
        self
    }

    /// Adds scratch memory: uninitialised unless its type is `zeroed`, and released after the launch.
    pub const fn scratch(mut self, name: &'static str, type_text: &'static str) -> Kernel {
        self.arguments.push(Argument::scratch(name, type_text));
        self
    }

    /// Adds a number that is passed by value, `f32`, `i32` or `i64`; see [`Kernel::run_with`]. A captured CUDA graph keeps the value of the
    /// capture: a number that changes from update to update belongs in a tensor.
    pub const fn scalar(mut self, name: &'static str, type_text: &'static str) -> Kernel {
        self.scalars.push((name, type_text));
        self
    }

    /// Adds a constant of the text, `constexpr long long name = value`.
    pub const fn constant(mut self, name: &'static str, value: i64) -> Kernel {
        self.constants.push((name, value));
        self
    }

    /// Sets the division of the work into blocks and threads. A [body](Kernel::body) without it is elementwise over its first output.
    pub const fn geometry(mut self, geometry: Geometry) -> Kernel {
        self.geometry = Some(geometry);
        self
    }

    /// Sets the text to a whole kernel. Errors of the compiler count lines from the first line of the text, in the file `name.cu`; with
    /// [`cuda_source!`](crate::cuda_source) they name the user's file and its lines.
    pub const fn source(mut self, text: &'static str) -> Kernel {
        self.text = Some(KernelText::Source(text));
        self
    }

    /// Sets the text to the computation of one element: statements that assign a `float` to each output. Inputs are `float`s of the same
    /// names. They have the shape of the output, or its last axes. All are f32, f16 or bf16. Errors of the compiler name the caller's file,
    /// and its lines if the text begins on the line of this call.
    #[track_caller]
    pub const fn body(mut self, text: &'static str) -> Kernel {
        self.text = Some(KernelText::Body { text, location: Location::caller() });
        self
    }

    /// Sets the text to compiled code, PTX or a cubin, for CUDA devices only. Its kernel has the parameters of [`Kernel::parameters`], and
    /// was compiled for the dtypes that the templates list.
    pub const fn image(mut self, image: &'static [u8]) -> Kernel {
        self.text = Some(KernelText::Image(image));
        self
    }
}

/// Use.
impl Kernel {
    /// The name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The parameters of the `__global__` function, with `T` for the type of a template `T`.
    ///
    /// Errors: the declaration is invalid.
    pub fn parameters(&self) -> Result<String> {
        Ok(text::parameters(self.declaration()?))
    }

    /// Runs the kernel on tensors of one device and returns its outputs. A kernel has no gradient: a backward pass that reaches an output is
    /// an error. [`Tensor::with_gradient`] adds a gradient; [`no_grad`](crate::no_grad) keeps the outputs out of the graph.
    ///
    /// Errors: the declaration is invalid; number, dtypes, shapes or devices of the inputs differ from it; the text does not compile; the
    /// launch fails. On the CPU: no g++ was found.
    pub fn run(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        self.run_with(inputs, &[])
    }

    /// As [`Kernel::run`], with the values of the [scalars](Kernel::scalar) in the order of declaration.
    ///
    /// ```
    /// use fornax_engine::{DType::F32, Result, Tensor, op::Kernel};
    /// static SCALED: Kernel = Kernel::new("scaled")
    ///     .template("T", [F32])
    ///     .input("x", "T[..]")
    ///     .output("y", "T like x")
    ///     .scalar("factor", "f32")
    ///     .body("y = factor * x;");
    /// # fn main() -> Result<()> {
    /// let y = SCALED.run_with(&[&Tensor::from_slice(&[1.0f32, 2.0], [2])?], &[0.5])?.remove(0);
    /// assert_eq!(y.to_vec::<f32>()?, [0.5, 1.0]);
    /// # Ok(()) }
    /// ```
    ///
    /// Errors: as for [`Kernel::run`]; the number of values differs, or a value is not exact in its integer type.
    pub fn run_with(&self, inputs: &[&Tensor], scalars: &[f64]) -> Result<Vec<Tensor>> {
        let binding = self.bind(inputs)?;
        let scalars = numbers(&binding, scalars)?;
        let outputs = match binding.device {
            Device::Cpu => cpu::run(self, &binding, &scalars),
            Device::Cuda(_) => cuda::run(self, &binding, &scalars),
        }?;
        let tracked = |y| with_derivative(self.name, inputs, y, NoGradient(self.name));
        Ok(outputs.into_iter().map(tracked).collect())
    }

    /// Bytes that a run on these inputs reads and writes by the declaration.
    ///
    /// Errors: as for [`Kernel::run`], without running.
    pub fn bytes(&self, inputs: &[&Tensor]) -> Result<KernelBytes> {
        Ok(self.bind(inputs)?.bytes())
    }

    fn declaration(&self) -> Result<&Declaration> {
        let parsed = self.declaration.get_or_init(|| Declaration::parse(self));
        parsed.as_ref().map_err(|why| {
            let why = format!("invalid declaration at {}: {why}", self.location);
            crate::Error::value(self.name, &[], why)
        })
    }

    fn bind<'a>(&'a self, inputs: &'a [&'a Tensor]) -> Result<Binding<'a>> {
        Binding::new(self, self.declaration()?, inputs)
    }
}

/// Derivative of a kernel. It is in the graph, so that a gradient of zero, or a second derivative that lacks a term, is an error.
struct NoGradient(&'static str);

impl Derivative for NoGradient {
    fn backward(&self, _: &Saved, _: Tensor, _: &[bool]) -> Result<Gradients> {
        let name = self.0;
        let why = format!(
            "kernel {name} has no gradient; add one with Tensor::with_gradient, or run the kernel in no_grad"
        );
        Err(crate::Error::Autograd { why })
    }
}

/// Text of a CUDA file, relative to the file that contains the call, for [`Kernel::source`](crate::op::Kernel::source). Errors of the
/// compiler name that file and its lines.
#[macro_export]
macro_rules! cuda_source {
    ($path:literal) => {
        concat!("#line 1 \"", $path, "\"\n", include_str!($path))
    };
}
