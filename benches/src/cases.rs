//! The rows: every large operation of the one table of cases in each direction, optimizer updates, and training steps.
use crate::networks::{Network, parameters};
use fornax_tests::cases::{self, Case};
use std::fmt;
use std::rc::Rc;

/// What one row measures; everything in f32.
#[derive(Clone)]
pub enum Row {
    /// A training step: forward, cross entropy, backward, SGD with momentum 0.9; the loss is read.
    Step(Network),
    /// One optimizer update of a network's parameters.
    Update(Optimizer, Network),
    /// An operation in one direction.
    Operation(Rc<Case>, Pass),
}

/// Which direction of an operation is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Input to output, nothing recorded.
    Forward,
    /// From an upstream gradient of the output to all differentiable inputs.
    Backward,
    /// To one input alone: a convolution's image (0) or weight (1).
    BackwardTo(usize),
}

/// Optimizers with a row of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optimizer {
    /// Momentum 0.9, no weight decay.
    Sgd,
    /// Betas 0.9 and 0.999, weight decay 0.01.
    AdamW,
}

/// Every row, in the order of the results' tables.
pub fn all() -> Vec<Row> {
    let mut rows: Vec<Row> = Network::ALL.into_iter().map(Row::Step).collect();
    rows.extend(
        [Optimizer::Sgd, Optimizer::AdamW].map(|optimizer| Row::Update(optimizer, Network::Resnet18)),
    );
    for case in cases::all().into_iter().filter(|case| case.large).map(Rc::new) {
        rows.extend(passes(&case).iter().map(|&pass| Row::Operation(case.clone(), pass)));
    }
    rows
}

/// The directions that training needs.
fn passes(case: &Case) -> &'static [Pass] {
    use Pass::*;
    match case.op {
        // A first layer's images have one or three channels, and get no gradient.
        "conv2d" if case.inputs[0].shape[3] <= 3 => &[Forward, BackwardTo(1)],
        "conv2d" => &[Forward, BackwardTo(0), BackwardTo(1)],
        // It hands the upstream gradient on: no work.
        "add" if case.inputs[0].shape == case.inputs[1].shape => &[Forward],
        _ => &[Forward, Backward],
    }
}

/// The arithmetic or the traffic that a row cannot do without.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Floating-point operations, a multiply-add as two.
    Flops(f64),
    /// Bytes read and written.
    Bytes(f64),
}

impl Row {
    /// What bounds this row, where one number says it.
    pub fn load(&self) -> Option<Load> {
        match self {
            Row::Step(_) => None,
            // Parameter and moments read and written, gradient read.
            Row::Update(Optimizer::Sgd, network) => Some(passes_over(parameters(&network.layers()), 5)),
            Row::Update(Optimizer::AdamW, network) => Some(passes_over(parameters(&network.layers()), 7)),
            Row::Operation(case, pass) => operation_load(case, *pass),
        }
    }
}

fn operation_load(case: &Case, pass: Pass) -> Option<Load> {
    let elements = |i: usize| case.inputs[i].shape.iter().product::<usize>();
    // Each gradient of a product costs as much as the product.
    let products = if pass == Pass::Backward { 2 } else { 1 };
    match case.op {
        "conv2d" => {
            let outputs = conv_outputs(case);
            let weight = &case.inputs[1].shape;
            if weight[3] == 1 && case.inputs[0].shape[3] > 1 {
                return Some(passes_over(elements(0) + outputs, 1));
            }
            Some(Load::Flops((2 * outputs * weight[1..].iter().product::<usize>()) as f64))
        }
        "linear" => Some(Load::Flops((2 * products * elements(1) * case.inputs[0].shape[0]) as f64)),
        "matmul" => {
            let columns = case.inputs[1].shape.last()?;
            Some(Load::Flops((2 * products * elements(0) * columns) as f64))
        }
        // Statistics, then apply: x, x, y. Backward: x, dy, x, dy, dx. A residual is read once, or its gradient written.
        "batch_norm" => {
            let residual = usize::from(case.inputs.len() > 3);
            Some(passes_over(elements(0), if pass == Pass::Forward { 3 } else { 5 } + residual))
        }
        _ => None,
    }
}

fn passes_over(elements: usize, passes: usize) -> Load {
    Load::Bytes((size_of::<f32>() * elements * passes) as f64)
}

/// Elements of a convolution's output.
fn conv_outputs(case: &Case) -> usize {
    let (image, weight) = (&case.inputs[0].shape, &case.inputs[1].shape);
    let side =
        |axis: usize| (image[axis] + 2 * option(case, "padding") - weight[axis]) / option(case, "stride") + 1;
    image[0] * side(1) * side(2) * weight[0]
}

/// A whole number among a case's options.
///
/// # Panics
/// When the case has no such option.
pub fn option(case: &Case, name: &str) -> usize {
    let found = case.options.iter().find(|(option, _)| *option == name);
    found.unwrap_or_else(|| panic!("{} has no option {name}", case.name())).1 as usize
}

impl fmt::Display for Row {
    /// The row's name, a path: family, shape, direction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Row::Step(network) => write!(f, "step/{}-b{}", network.name(), network.input()[0]),
            Row::Update(Optimizer::Sgd, network) => write!(f, "update/sgd-{}", network.name()),
            Row::Update(Optimizer::AdamW, network) => write!(f, "update/adamw-{}", network.name()),
            Row::Operation(case, pass) => write!(f, "{}/{pass}", case.name()),
        }
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pass::Forward => "forward",
            Pass::Backward => "backward",
            Pass::BackwardTo(0) => "backward-input",
            Pass::BackwardTo(_) => "backward-weight",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> = all().iter().map(Row::to_string).collect();
        let rows = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), rows);
    }

    #[test]
    fn a_convolution_counts_two_operations_a_tap() {
        let row = all().into_iter().find(|row| row.to_string() == "conv2d/3x3s2-64to128-56x56-b16/forward");
        let flops = 2.0 * (16 * 28 * 28 * 128) as f64 * (3 * 3 * 64) as f64;
        assert_eq!(row.expect("the table has this row").load(), Some(Load::Flops(flops)));
    }
}
