//! CUDA text of expressions, in float or double.
use super::graph::{Node, Program};
use crate::scalar::Precision;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Declarations of the values of the nodes that `wanted` selects, one line each. `name` returns the names of values and of inputs.
pub(super) fn declarations(
    program: &Program,
    precision: Precision,
    indent: &str,
    wanted: impl Fn(usize) -> bool,
    name: impl Fn(usize) -> String,
) -> String {
    let mut text = String::new();
    for (i, node) in program.nodes.iter().enumerate().filter(|(i, _)| wanted(*i)) {
        if let Some(value) = formula(node, precision, &name) {
            let _ = writeln!(text, "{indent}const {} {} = {value};", precision.c_type(), name(i));
        }
    }
    text
}

/// C expression of a node; `None` for inputs and constants.
pub(super) fn formula(node: &Node, precision: Precision, name: impl Fn(usize) -> String) -> Option<String> {
    Some(match *node {
        Node::Input(_) | Node::Constant(_) => return None,
        Node::Unary(f, a) => f.cuda(precision, &name(a)),
        Node::Binary(f, a, b) => f.cuda(precision, &name(a), &name(b)),
        Node::Select(c, a, b) => format!("{} != 0 ? {} : {}", name(c), name(a), name(b)),
    })
}

/// C literal.
pub(super) fn literal(value: f64, precision: Precision) -> String {
    match precision {
        Precision::Float if (value as f32).is_finite() => format!("{:?}f", value as f32),
        Precision::Float => format!("__uint_as_float({:#x}u)", (value as f32).to_bits()),
        Precision::Double if value.is_finite() => format!("{value:?}"),
        Precision::Double => format!("(double){}", literal(value, Precision::Float)),
    }
}

/// Hash of a program and signature, for kernel names.
pub(super) fn digest(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}
