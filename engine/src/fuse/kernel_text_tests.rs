//! Functions in `kernels/cu/{activation,unary,binary}.cu` against the rows of `scalar/table.rs`.
use super::cuda_text::{formula, literal};
use super::graph::{Node, Program};
use super::value::trace;
use crate::Activation;
use crate::scalar::function::{BinaryFn, UnaryFn, binary, unary};
use crate::scalar::table::{binary_function_rows, unary_function_rows};
use crate::scalar::{Binary, Precision, Unary};
use fornax_kernels::kernel_module;
use std::fmt::Write;

/// C code of a program with one output: declarations of values that are used more than once, and the expression of the output.
struct Code<'a> {
    program: &'a Program,
    inputs: &'a [&'a str],
    uses: Vec<usize>,
}

impl Code<'_> {
    fn of<'a>(program: &'a Program, inputs: &'a [&'a str]) -> Code<'a> {
        let mut uses = vec![0; program.nodes.len()];
        program.nodes.iter().flat_map(Node::operands).for_each(|i| uses[i] += 1);
        Code { program, inputs, uses }
    }

    fn declarations(&self, indent: &str) -> String {
        let mut text = String::new();
        for i in (0..self.program.nodes.len()).filter(|i| self.is_declared(*i)) {
            writeln!(text, "{indent}const float v{i} = {};", self.expression(i)).unwrap();
        }
        text
    }

    fn is_declared(&self, i: usize) -> bool {
        self.uses[i] > 1 && !matches!(self.program.nodes[i], Node::Input(_) | Node::Constant(_))
    }

    /// Expression of a node.
    fn expression(&self, i: usize) -> String {
        let operand = |i: usize| self.operand(i);
        match self.program.nodes[i] {
            Node::Input(k) => self.inputs[k].into(),
            Node::Constant(bits) => literal(f64::from_bits(bits), Precision::Float),
            Node::Select(condition, yes, no) => {
                let condition = match self.program.nodes[condition] {
                    _ if self.is_declared(condition) => format!("v{condition} != 0"),
                    Node::Binary(Binary::Greater, a, b) => format!("{} > {}", operand(a), operand(b)),
                    Node::Binary(Binary::Equal, a, b) => format!("{} == {}", operand(a), operand(b)),
                    _ => format!("{} != 0", operand(condition)),
                };
                format!("{condition} ? {} : {}", operand(yes), operand(no))
            }
            node if is_call(node) => {
                formula(&node, Precision::Float, |i| self.argument(i)).expect("an instruction")
            }
            node => formula(&node, Precision::Float, operand).expect("an instruction"),
        }
    }

    /// A node as argument of a function.
    fn argument(&self, i: usize) -> String {
        if self.is_declared(i) { format!("v{i}") } else { self.expression(i) }
    }

    /// A node as operand of an operator.
    fn operand(&self, i: usize) -> String {
        let text = self.argument(i);
        let is_atom = text.chars().all(|c| c.is_alphanumeric() || "._-".contains(c));
        if is_atom || is_call(self.program.nodes[i]) { text } else { format!("({text})") }
    }

    fn result(&self) -> String {
        self.expression(self.program.outputs[0])
    }
}

/// True for a node whose text is a function's call.
fn is_call(node: Node) -> bool {
    match node {
        Node::Unary(f, _) => f != Unary::Neg,
        Node::Binary(f, ..) => matches!(f, Binary::Max | Binary::Min | Binary::Pow),
        _ => false,
    }
}

/// Name of a type from a kernel's name.
fn camel_case(name: &str) -> String {
    let word = |word: &str| word[..1].to_uppercase() + &word[1..];
    name.split('_').map(word).collect()
}

/// Types of the activations, and the calls that instantiate their kernels.
fn activations() -> [String; 2] {
    let (mut types, mut kernels) = (String::new(), String::new());
    for f in Activation::ALL.iter().copied().filter(|f| *f != Activation::Identity) {
        let name = camel_case(f.name());
        write!(types, "struct {name} {{\n  float p;\n").unwrap();
        let programs = [trace(|[x, p]| [f.value(x, p)]), trace(|[x, p]| [f.derivative(x, p)])];
        for (method, program) in ["VALUE", "DERIVATIVE"].into_iter().zip(&programs) {
            let code = Code::of(program, &["x", "p"]);
            let declarations = code.declarations("    ");
            match declarations.is_empty() {
                true => writeln!(types, "  {method} {{ return {}; }}", code.result()).unwrap(),
                false => writeln!(types, "  {method} {{\n{declarations}    return {};\n  }}", code.result())
                    .unwrap(),
            }
        }
        types += "};\n\n";
        writeln!(kernels, "KERNELS({name}, {})", f.name()).unwrap();
    }
    [types, kernels]
}

/// Definition of a function, and the arguments that instantiate its kernels.
fn function(kernel: &str, program: &Program, inputs: &[&str]) -> (String, String) {
    let (name, code) = (camel_case(kernel), Code::of(program, inputs));
    assert!(code.declarations("").is_empty(), "{kernel} is one expression");
    (format!("FUNCTION({name}, {})\n", code.result()), format!("({name}, {kernel})\n"))
}

fn joined(all: &[(String, String)], instantiate: &str) -> [String; 2] {
    let kernels = all.iter().map(|(_, arguments)| format!("{instantiate}{arguments}"));
    [all.iter().map(|(definition, _)| definition.as_str()).collect(), kernels.collect()]
}

macro_rules! unary_functions {
    ($($(#[$doc:meta])* $name:ident $kernel:literal, |$x:ident, $p:ident, $q:ident, $c:ident| $value:expr;)*) => {
        [$(function($kernel, &trace(|[x, p, q]| [unary::$name::apply(x, p, q)]), &["x", "p", "q"])),*]
    };
}

macro_rules! binary_functions {
    ($($(#[$doc:meta])* $name:ident $kernel:literal, |$a:ident, $b:ident, $c:ident| $value:expr;)*) => {
        [$(function($kernel, &trace(|[a, b]| [binary::$name::apply(a, b)]), &["a", "b"])),*]
    };
}

/// Compares the parts of a kernel module between markers with the generated ones.
fn check(module: &str, parts: [String; 2]) {
    let source = kernel_module(module).expect("a kernel module").source;
    let mut expected = String::new();
    let mut rest = source;
    for part in &parts {
        let (before, after) = rest.split_once("// From scalar/table.rs:\n").expect("a marker");
        let (_, after) = after.split_once("// End\n").expect("a marker");
        write!(expected, "{before}// From scalar/table.rs:\n{part}// End\n").unwrap();
        rest = after;
    }
    expected += rest;
    if std::env::var_os("FORNAX_WRITE_KERNELS").is_some() {
        let path = format!("{}/../kernels/cu/{module}.cu", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, &expected).expect("the kernels can be written");
    }
    assert!(
        source == expected,
        "{module}.cu differs from scalar/table.rs; run this test with FORNAX_WRITE_KERNELS=1"
    );
}

#[test]
fn functions_of_kernel_modules_are_those_of_the_table() {
    check("activation", activations());
    check("unary", joined(&unary_function_rows!(unary_functions), "UNARY"));
    check("binary", joined(&binary_function_rows!(binary_functions), "BINARY"));
}
