//! Symbolic reverse-mode differentiation: the gradients of an expression as expressions of its inputs and the upstream gradient.
use super::graph::{Graph, Node, Program};
use super::value::Value;
use crate::scalar::Scalar;
use std::cell::RefCell;

/// Program of the gradients of a program's single output with respect to the wanted inputs, in order. Its inputs are the inputs of
/// `program` followed by the upstream gradient. The gradient of an input that the output does not depend on is the constant 0.
pub(crate) fn gradients(program: &Program, wanted: &[bool]) -> Program {
    let [output] = program.outputs[..] else {
        unreachable!("only expressions of one output are differentiated")
    };
    let graph = RefCell::new(Graph::from_program(program));
    let value = |node: usize| Value { graph: &graph, node };
    let upstream = graph.borrow_mut().input(program.inputs);
    let needs_grad = depends(program, wanted);
    // Gradient of each node, accumulated over the uses visited so far.
    let mut grads: Vec<Option<Value>> = vec![None; program.nodes.len()];
    grads[output] = Some(value(upstream));
    for i in (0..=output).rev().filter(|i| needs_grad[*i]) {
        let Some(grad) = grads[i] else { continue };
        for (operand, grad) in operand_gradients(program.nodes[i], value, value(i), grad) {
            if needs_grad[operand] {
                grads[operand] = Some(grads[operand].map_or(grad, |known| known + grad));
            }
        }
    }
    let zero = graph.borrow_mut().constant(0.0);
    let of_input = |i: usize| program.nodes.iter().position(|node| *node == Node::Input(i));
    let outputs: Vec<usize> = (0..program.inputs)
        .filter(|i| wanted[*i])
        .map(|i| of_input(i).and_then(|node| grads[node]).map_or(zero, |grad| grad.node))
        .collect();
    graph.borrow().program(program.inputs + 1, &outputs)
}

/// Marks the nodes that depend on a wanted input.
fn depends(program: &Program, wanted: &[bool]) -> Vec<bool> {
    let mut needs_grad: Vec<bool> = vec![];
    for node in &program.nodes {
        let does = match node {
            Node::Input(i) => wanted[*i],
            Node::Binary(f, ..) if !f.has_gradient() => false,
            _ => node.operands().any(|a| needs_grad[a]),
        };
        needs_grad.push(does);
    }
    needs_grad
}

/// Vector-Jacobian product: the contributions of the gradient `g` of a node of value `y` to the gradients of its operands.
fn operand_gradients<'g>(
    node: Node,
    value: impl Fn(usize) -> Value<'g>,
    y: Value<'g>,
    g: Value<'g>,
) -> Vec<(usize, Value<'g>)> {
    match node {
        Node::Input(_) | Node::Constant(_) => vec![],
        Node::Unary(f, x) => f.gradient(value(x), y, g).map(|grad| (x, grad)).into_iter().collect(),
        Node::Binary(f, a, b) => match f.gradient(value(a), value(b), y, g) {
            Some((grad_a, grad_b)) => vec![(a, grad_a), (b, grad_b)],
            None => vec![],
        },
        Node::Select(condition, a, b) => {
            let (condition, zero) = (value(condition), g.constant(0.0));
            vec![(a, condition.select(g, zero)), (b, condition.select(zero, g))]
        }
    }
}
