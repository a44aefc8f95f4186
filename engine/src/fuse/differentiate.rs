//! Symbolic reverse-mode differentiation: the gradients of an expression as expressions of its inputs and the upstream gradient.
use super::graph::{Binary, Graph, Node, Program, Unary};

/// Program of the gradients of a program's single output with respect to the wanted inputs, in order. Its inputs are the inputs of
/// `program` followed by the upstream gradient. The gradient of an input that the output does not depend on is the constant 0.
pub(crate) fn gradients(program: &Program, wanted: &[bool]) -> Program {
    let mut back =
        GradientBuilder { graph: Graph::from_program(program), grads: vec![None; program.nodes.len()] };
    let upstream = back.graph.input(program.inputs);
    let [output] = program.outputs[..] else {
        unreachable!("only expressions of one output are differentiated")
    };
    let needs_grad = depends(program, wanted);
    back.grads[output] = Some(upstream);
    for i in (0..=output).rev().filter(|i| needs_grad[*i]) {
        if let Some(grad) = back.grads[i] {
            for (operand, grad) in back.vjp(i, grad) {
                if needs_grad[operand] {
                    back.add(operand, grad);
                }
            }
        }
    }
    let zero = back.graph.constant(0.0);
    let of_input = |i: usize| program.nodes.iter().position(|node| *node == Node::Input(i));
    let outputs: Vec<usize> = (0..program.inputs)
        .filter(|i| wanted[*i])
        .map(|i| of_input(i).and_then(|node| back.grads[node]).unwrap_or(zero))
        .collect();
    back.graph.program(program.inputs + 1, &outputs)
}

/// Marks the nodes that depend on a wanted input.
fn depends(program: &Program, wanted: &[bool]) -> Vec<bool> {
    let mut needs_grad: Vec<bool> = vec![];
    for node in &program.nodes {
        let does = match node {
            Node::Input(i) => wanted[*i],
            Node::Binary(Binary::Greater | Binary::Equal, ..) => false,
            _ => node.operands().any(|a| needs_grad[a]),
        };
        needs_grad.push(does);
    }
    needs_grad
}

struct GradientBuilder {
    graph: Graph,
    /// Gradient of each node of the program, accumulated over the uses visited so far.
    grads: Vec<Option<usize>>,
}

impl GradientBuilder {
    fn add(&mut self, node: usize, grad: usize) {
        let sum = self.grads[node].map_or(grad, |known| self.graph.binary(Binary::Add, known, grad));
        self.grads[node] = Some(sum);
    }

    /// Vector-Jacobian product: the contributions of the gradient `g` of node `y` to the gradients of its operands.
    fn vjp(&mut self, y: usize, g: usize) -> Vec<(usize, usize)> {
        use Binary::*;
        use Unary::*;
        match self.graph.node(y) {
            Node::Input(_) | Node::Constant(_) => vec![],
            Node::Unary(f, x) => {
                let derivative = match f {
                    Neg => return vec![(x, self.unary(Neg, g))],
                    Floor => return vec![],
                    Ln => return vec![(x, self.scaled(g, Div, x))],
                    Sqrt => {
                        let half = self.constant_op(0.5, Mul, g);
                        return vec![(x, self.scaled(half, Div, y))];
                    }
                    Relu => {
                        let (above, zero) = (self.compare_zero(x, true), self.constant(0.0));
                        return vec![(x, self.graph.select(above, g, zero))];
                    }
                    Abs => {
                        let (above, below) = (self.compare_zero(x, true), self.compare_zero(x, false));
                        let (minus, zero) = (self.unary(Neg, g), self.constant(0.0));
                        let rest = self.graph.select(below, minus, zero);
                        return vec![(x, self.graph.select(above, g, rest))];
                    }
                    Exp => y,
                    ExpM1 => self.unary(Exp, x),
                    Tanh => {
                        let square = self.graph.binary(Mul, y, y);
                        self.constant_op(1.0, Sub, square)
                    }
                    Sigmoid => {
                        let rest = self.constant_op(1.0, Sub, y);
                        self.graph.binary(Mul, y, rest)
                    }
                    Softplus => self.unary(Sigmoid, x),
                    Erf => {
                        let square = self.graph.binary(Mul, x, x);
                        let minus = self.unary(Neg, square);
                        let bell = self.unary(Exp, minus);
                        self.constant_op(std::f64::consts::FRAC_2_SQRT_PI, Mul, bell)
                    }
                };
                vec![(x, self.scaled(g, Mul, derivative))]
            }
            Node::Binary(f, a, b) => match f {
                Add => vec![(a, g), (b, g)],
                Sub => vec![(a, g), (b, self.unary(Neg, g))],
                Mul => vec![(a, self.scaled(g, Mul, b)), (b, self.scaled(g, Mul, a))],
                Div => {
                    let da = self.scaled(g, Div, b);
                    let db = self.scaled(da, Mul, y);
                    vec![(a, da), (b, self.unary(Neg, db))]
                }
                Max => vec![(a, self.grad_where_greater(g, a, b)), (b, self.grad_where_greater(g, b, a))],
                Min => vec![(a, self.grad_where_greater(g, b, a)), (b, self.grad_where_greater(g, a, b))],
                Pow => {
                    let one = self.constant(1.0);
                    let less = self.graph.binary(Sub, b, one);
                    let power = self.graph.binary(Pow, a, less);
                    let derivative = self.graph.binary(Mul, b, power);
                    let log = self.unary(Ln, a);
                    let by_exponent = self.graph.binary(Mul, y, log);
                    vec![(a, self.scaled(g, Mul, derivative)), (b, self.scaled(g, Mul, by_exponent))]
                }
                Greater | Equal => vec![],
            },
            Node::Select(c, a, b) => {
                let zero = self.constant(0.0);
                vec![(a, self.graph.select(c, g, zero)), (b, self.graph.select(c, zero, g))]
            }
        }
    }

    /// `g` where `a > b`, `g / 2` at a tie, else 0.
    fn grad_where_greater(&mut self, g: usize, a: usize, b: usize) -> usize {
        let (half, zero) = (self.constant_op(0.5, Binary::Mul, g), self.constant(0.0));
        let (greater, equal) =
            (self.graph.binary(Binary::Greater, a, b), self.graph.binary(Binary::Equal, a, b));
        let rest = self.graph.select(equal, half, zero);
        self.graph.select(greater, g, rest)
    }

    /// `g * factor` or `g / factor`. Zeros that a select put into `g` stay zero, even if the factor is infinite.
    fn scaled(&mut self, g: usize, f: Binary, factor: usize) -> usize {
        if let Node::Select(c, a, b) = self.graph.node(g) {
            let is_zero = |i: usize| self.graph.value(i) == Some(0.0);
            if is_zero(a) {
                let b = self.scaled(b, f, factor);
                return self.graph.select(c, a, b);
            }
            if is_zero(b) {
                let a = self.scaled(a, f, factor);
                return self.graph.select(c, a, b);
            }
        }
        self.graph.binary(f, g, factor)
    }

    fn unary(&mut self, f: Unary, a: usize) -> usize {
        self.graph.unary(f, a)
    }

    fn constant_op(&mut self, left: f64, f: Binary, right: usize) -> usize {
        let left = self.constant(left);
        self.graph.binary(f, left, right)
    }

    /// `x > 0`, or `x < 0`.
    fn compare_zero(&mut self, x: usize, above: bool) -> usize {
        let zero = self.constant(0.0);
        let (a, b) = if above { (x, zero) } else { (zero, x) };
        self.graph.binary(Binary::Greater, a, b)
    }

    fn constant(&mut self, value: f64) -> usize {
        self.graph.constant(value)
    }
}
