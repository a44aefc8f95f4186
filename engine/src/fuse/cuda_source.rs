//! CUDA code generation for a program: straight-line code for one element, in a loop over packs of 16 bytes.
//!
//! Without per-channel operands the loop is flat. With them a thread block iterates over rows like the batch norm kernels
//! (`channels.cuh`): per-channel operands are loaded once for many rows, and sums over rows are written as partial sums,
//! `[chunks, sums, c]`, which are reduced afterwards.
use super::cuda_text::{declarations, digest, literal};
use super::graph::{Node, Program};
use super::signature::{Broadcast, KernelOutput, KernelSignature};
use crate::DType;
use crate::scalar::Precision;
use std::fmt::Write;

/// Name and source of a generated kernel.
#[derive(Debug)]
pub(crate) struct GeneratedKernel {
    pub(crate) kernel: String,
    pub(crate) source: String,
    /// The kernel indexes elements linearly and takes their number; otherwise it takes rows, channels and rows per chunk.
    pub(crate) is_flat: bool,
}

impl GeneratedKernel {
    pub(crate) fn new(program: &Program, signature: &KernelSignature) -> GeneratedKernel {
        let is_flat = signature.is_flat();
        let kernel = format!("fused_{:016x}_{}", digest(&(program, signature)), signature.inputs[0].0);
        let writer = KernelWriter { program, signature };
        let (function, body) = (writer.function(), if is_flat { writer.flat() } else { writer.rows() });
        let (parameters, names) = (writer.parameters(), writer.names());
        let (pack, aligned) = (writer.pack(), writer.aligned());
        let main = if is_flat {
            format!(
                "KERNEL {kernel}({parameters}, long long n) {{\n  constexpr int N = {pack};\n  const GridStride loop;\n  \
                 const long long packs = {aligned} ? n / N : 0;\n{}  \
                 for (long long i = loop.first; i < packs; i += loop.step) element<N>({names}, i * N);\n  \
                 for (long long i = packs * N + loop.first; i < n; i += loop.step) element<1>({names}, i);\n}}\n",
                writer.scalars()
            )
        } else {
            format!(
                "KERNEL {kernel}({parameters}, long long rows, int c, int chunk_rows) {{\n  constexpr int N = {pack};\n  \
                 if (c % N == 0 && {aligned}) walk<N>({names}, rows, c, chunk_rows);\n  \
                 else walk<1>({names}, rows, c, chunk_rows);\n}}\n"
            )
        };
        let source = format!(
            "#include \"fuse.cuh\"\n\nnamespace {{\n\n{function}\n{body}\n}}  // namespace\n\n{main}"
        );
        GeneratedKernel { kernel, source, is_flat }
    }
}

struct KernelWriter<'a> {
    program: &'a Program,
    signature: &'a KernelSignature,
}

impl KernelWriter<'_> {
    /// Inputs read by the program, with their broadcast.
    fn inputs(&self) -> impl Iterator<Item = (usize, Broadcast)> {
        let used = |i: &usize| self.program.nodes.contains(&Node::Input(*i));
        (0..self.signature.inputs.len()).filter(used).map(|i| (i, self.signature.inputs[i].1))
    }

    fn of(&self, which: Broadcast) -> impl Iterator<Item = usize> {
        self.inputs().filter(move |(_, broadcast)| *broadcast == which).map(|(i, _)| i)
    }

    /// Outputs written per element.
    fn elements(&self) -> impl Iterator<Item = usize> {
        let is = |o: &usize| self.signature.outputs[*o] != KernelOutput::Sums;
        (0..self.signature.outputs.len()).filter(is)
    }

    fn sums(&self) -> Vec<usize> {
        (0..self.signature.outputs.len())
            .filter(|o| self.signature.outputs[*o] == KernelOutput::Sums)
            .collect()
    }

    /// Source of the scalar function `y0, … = f(x0, …)`.
    fn function(&self) -> String {
        let inputs = self.inputs().map(|(i, _)| format!("float x{i}"));
        let outputs = (0..self.signature.outputs.len()).map(|o| format!("float& y{o}"));
        let parameters: Vec<String> = inputs.chain(outputs).collect();
        let mut text = format!("__device__ __forceinline__ void function({}) {{\n", parameters.join(", "));
        text += &declarations(self.program, Precision::Float, "  ", |_| true, |i| self.name(i));
        for (o, node) in self.program.outputs.iter().enumerate() {
            let _ = writeln!(text, "  y{o} = {};", self.name(*node));
        }
        text + "}\n"
    }

    /// Operand expression of a node.
    fn name(&self, i: usize) -> String {
        match self.program.nodes[i] {
            Node::Input(k) => format!("x{k}"),
            Node::Constant(bits) => literal(f64::from_bits(bits), Precision::Float),
            _ => format!("v{i}"),
        }
    }

    /// Source of the flat loop body: a pack or one element at `i`.
    fn flat(&self) -> String {
        let mut text = format!(
            "template <int V> __device__ __forceinline__ void element({}, long long i) {{\n",
            self.by_kind(|dtype, x| format!("const {}* {x}", c_type(dtype)), |x| format!("float {x}"), "")
        );
        for i in self.of(Broadcast::Full) {
            let _ = writeln!(text, "  float x{i}[V];\n  fetch<V>(p{i} + i, x{i});");
        }
        text += &self.compute("  ");
        text + "}\n"
    }

    /// Source of the loop over rows of channels of chunk `blockIdx.y`, tile by tile.
    fn rows(&self) -> String {
        let sums = self.sums();
        let loaded: String =
            self.of(Broadcast::Full).map(|i| format!("    {} x{i};\n", self.stored(i))).collect();
        // Four packs or more in flight.
        let batch = 4usize.div_ceil(self.of(Broadcast::Full).count().max(1));
        let mut text = format!(
            "template <int V> __device__ void walk({}, long long rows, int c, int chunk_rows) {{\n{}  struct Loaded {{\n{loaded}  }};\n  \
             const Tile<V> tile(c);\n  \
             const long long first = (long long)blockIdx.y * chunk_rows;\n  \
             const int n = (int)min((long long)chunk_rows, rows - first);\n  \
             for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {{\n    const int at = tile.channel(t);\n",
            self.parameters(),
            self.scalars(),
        );
        if !sums.is_empty() {
            let _ = writeln!(text, "    float totals[{} * V] = {{}};", sums.len());
        }
        text += "    if (at < c) {\n";
        for i in self.of(Broadcast::Channel) {
            let _ = writeln!(text, "      float x{i}[V];\n      fetch<V>(p{i} + at, x{i});");
        }
        let _ = writeln!(
            text,
            "      for_rows<{batch}>(\n          tile.row, n, tile.rows,\n          [&](int row) {{\n            \
             const long long i = (first + row) * c + at;\n            Loaded of;"
        );
        for i in self.of(Broadcast::Full) {
            let _ = writeln!(text, "            of.x{i} = {}::load(p{i} + i);", self.stored(i));
        }
        text += "            return of;\n          },\n          [&](int row, const Loaded& of) {\n            \
                 const long long i = (first + row) * c + at;\n";
        for i in self.of(Broadcast::Full) {
            let _ = writeln!(text, "            float x{i}[V];\n            of.x{i}.widen(x{i});");
        }
        text += &self.compute("            ");
        for (k, o) in sums.iter().enumerate() {
            let _ = writeln!(
                text,
                "#pragma unroll\n            for (int k = 0; k < V; k++) totals[{k} * V + k] += y{o}[k];"
            );
        }
        text += "          });\n    }\n";
        if !sums.is_empty() {
            let _ = writeln!(
                text,
                "    sum_over_rows(totals, tile.lanes);\n    if (at < c && tile.row == 0) {{\n#pragma unroll\n      \
                 for (int k = 0; k < {0} * V; k++) {{\n        \
                 partial[((long long)blockIdx.y * {0} + k / V) * c + at + k % V] = totals[k];\n      }}\n    }}",
                sums.len()
            );
        }
        text + "  }\n}\n"
    }

    /// Type of V elements of an input as stored.
    fn stored(&self, i: usize) -> String {
        format!("Stored<{}, V>", c_type(self.signature.inputs[i].0))
    }

    /// Source of the function on each of V elements, and of stores at `i`.
    fn compute(&self, indent: &str) -> String {
        let mut text = String::new();
        for o in 0..self.signature.outputs.len() {
            let _ = writeln!(text, "{indent}float y{o}[V];");
        }
        let inputs = self.inputs().map(|(i, broadcast)| match broadcast {
            Broadcast::Scalar => format!("x{i}"),
            _ => format!("x{i}[k]"),
        });
        let outputs = (0..self.signature.outputs.len()).map(|o| format!("y{o}[k]"));
        let arguments: Vec<String> = inputs.chain(outputs).collect();
        let _ = writeln!(
            text,
            "#pragma unroll\n{indent}for (int k = 0; k < V; k++) function({});",
            arguments.join(", ")
        );
        for o in self.elements() {
            let _ = writeln!(text, "{indent}put<V>(q{o} + i, y{o});");
        }
        text
    }

    /// Source of the loads of scalar inputs.
    fn scalars(&self) -> String {
        self.of(Broadcast::Scalar).map(|i| format!("  const float x{i} = to_float(*p{i});\n")).collect()
    }

    /// Pointer parameters of the kernel: inputs `p`, outputs `q`, and partial sums. Unused inputs are included.
    fn parameters(&self) -> String {
        let inputs = self.signature.inputs.iter().enumerate();
        let inputs = inputs.map(|(i, (dtype, _))| format!("const {}* __restrict__ p{i}", c_type(*dtype)));
        let outputs = self.elements().map(|o| match self.signature.outputs[o] {
            KernelOutput::Elements(dtype) => format!("{}* __restrict__ q{o}", c_type(dtype)),
            KernelOutput::Sums => unreachable!("only elements"),
        });
        let partial = (!self.sums().is_empty()).then(|| "float* __restrict__ partial".to_string());
        inputs.chain(outputs).chain(partial).collect::<Vec<_>>().join(", ")
    }

    /// Arguments that the kernel passes to its loop body.
    fn names(&self) -> String {
        if self.signature.is_flat() {
            return self.by_kind(|_, p| p, |x| x, "names");
        }
        let inputs = (0..self.signature.inputs.len()).map(|i| format!("p{i}"));
        let outputs = self.elements().map(|o| format!("q{o}"));
        let partial = (!self.sums().is_empty()).then(|| "partial".to_string());
        inputs.chain(outputs).chain(partial).collect::<Vec<_>>().join(", ")
    }

    /// Pointers to elementwise operands, and values of scalars. With an empty `how`, outputs are declared with their type.
    fn by_kind(
        &self,
        pointer: impl Fn(DType, String) -> String,
        value: impl Fn(String) -> String,
        how: &str,
    ) -> String {
        let inputs = self.inputs().map(|(i, broadcast)| match broadcast {
            Broadcast::Scalar => value(format!("x{i}")),
            _ => pointer(self.signature.inputs[i].0, format!("p{i}")),
        });
        let outputs = self.elements().map(|o| match self.signature.outputs[o] {
            KernelOutput::Elements(dtype) if how.is_empty() => format!("{}* q{o}", c_type(dtype)),
            _ => format!("q{o}"),
        });
        inputs.chain(outputs).collect::<Vec<_>>().join(", ")
    }

    fn pack(&self) -> String {
        format!("Pack<{}>::N", c_type(self.signature.inputs[0].0))
    }

    /// Condition that all pointers loaded in packs are aligned.
    fn aligned(&self) -> String {
        let inputs = self
            .inputs()
            .filter(|(_, broadcast)| *broadcast != Broadcast::Scalar)
            .map(|(i, _)| format!("p{i}"));
        let outputs = self.elements().map(|o| format!("q{o}"));
        let all: Vec<String> = inputs.chain(outputs).map(|name| format!("aligned({name})")).collect();
        if all.is_empty() { "true".into() } else { all.join(" && ") }
    }
}

fn c_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "half16",
        DType::BF16 => "bfloat16",
        _ => "float",
    }
}
