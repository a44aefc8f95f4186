//! Rows of the benchmarks: training steps, optimizer updates, and every large case of the table of cases, forward and backward.
use crate::networks::{Network, parameter_count};
use fornax_engine::DType;
use fornax_tests::cases::{self, Case};
use std::fmt;
use std::rc::Rc;

/// Row of the benchmarks. All but the bf16 steps are in f32.
#[derive(Clone)]
pub enum Row {
    /// Training step: forward, cross entropy, backward, SGD with momentum 0.9; reads the loss. In f32, or in mixed precision at
    /// optimization level O1 with bf16, which is PyTorch's autocast.
    Step(Network, DType),
    /// Optimizer update of a network's parameters.
    Update(Optimizer, Network),
    /// Forward or backward pass of an operation.
    Operation(Rc<Case>, Pass),
}

/// Timed pass of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Forward pass without autograd.
    Forward,
    /// Backward pass, from the output's upstream gradient to all differentiable inputs.
    Backward,
    /// Backward pass to one input: a convolution's image (0) or weight (1).
    BackwardTo(usize),
}

/// Optimizer of an update row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optimizer {
    /// SGD with momentum 0.9, no weight decay.
    Sgd,
    /// AdamW with betas 0.9 and 0.999, weight decay 0.01.
    AdamW,
}

/// All rows, in the order of the tables.
pub fn all() -> Vec<Row> {
    let steps = |dtype| Network::ALL.into_iter().map(move |network| Row::Step(network, dtype));
    let mut rows: Vec<Row> = steps(DType::F32).chain(steps(DType::BF16)).collect();
    rows.extend(
        [Optimizer::Sgd, Optimizer::AdamW].map(|optimizer| Row::Update(optimizer, Network::Resnet18)),
    );
    for case in cases::all().into_iter().filter(|case| case.large).map(Rc::new) {
        rows.extend(passes(&case).iter().map(|&pass| Row::Operation(case.clone(), pass)));
    }
    rows
}

/// Passes of an operation in training.
fn passes(case: &Case) -> &'static [Pass] {
    use Pass::*;
    match case.op {
        // The first layer's images, with one or three channels, need no gradient.
        "conv2d" if case.inputs[0].shape[3] <= 3 => &[Forward, BackwardTo(1)],
        "conv2d" => &[Forward, BackwardTo(0), BackwardTo(1)],
        // The gradients are the upstream gradient itself.
        "add" if case.inputs[0].shape == case.inputs[1].shape => &[Forward],
        // A mask has no gradient.
        "gt" => &[Forward],
        _ => &[Forward, Backward],
    }
}

/// Minimum work of a row's run, for its throughput.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RowWork {
    /// Floating-point operations; a multiply-add counts as two.
    Flops(f64),
    /// Bytes read and written.
    Bytes(f64),
}

impl Row {
    /// Minimum FLOPs or bytes of a run; `None` if neither alone bounds the row.
    pub fn work(&self) -> Option<RowWork> {
        match self {
            Row::Step(..) => None,
            // Reads and writes parameter and moments, reads the gradient.
            Row::Update(Optimizer::Sgd, network) => {
                Some(memory_passes(parameter_count(&network.layers()), 5))
            }
            Row::Update(Optimizer::AdamW, network) => {
                Some(memory_passes(parameter_count(&network.layers()), 7))
            }
            Row::Operation(case, pass) => operation_work(case, *pass),
        }
    }
}

fn operation_work(case: &Case, pass: Pass) -> Option<RowWork> {
    let elements = |i: usize| case.inputs[i].shape.iter().product::<usize>();
    // The gradient of each operand of a matmul costs as much as the matmul.
    let matmuls = if pass == Pass::Backward { 2 } else { 1 };
    match case.op {
        "conv2d" => {
            let outputs = conv_outputs(case);
            let weight = &case.inputs[1].shape;
            if weight[3] == 1 && case.inputs[0].shape[3] > 1 {
                return Some(memory_passes(elements(0) + outputs, 1));
            }
            Some(RowWork::Flops((2 * outputs * weight[1..].iter().product::<usize>()) as f64))
        }
        "linear" => Some(RowWork::Flops((2 * matmuls * elements(1) * case.inputs[0].shape[0]) as f64)),
        "matmul" => {
            let columns = case.inputs[1].shape.last()?;
            Some(RowWork::Flops((2 * matmuls * elements(0) * columns) as f64))
        }
        // Forward reads x for the statistics, then x again, and writes y. Backward: x, dy, x, dy, dx. A residual is read once, its gradient
        // written once.
        "batch_norm" => {
            let residual = usize::from(case.inputs.len() > 3);
            Some(memory_passes(elements(0), if pass == Pass::Forward { 3 } else { 5 } + residual))
        }
        _ => None,
    }
}

fn memory_passes(elements: usize, passes: usize) -> RowWork {
    RowWork::Bytes((size_of::<f32>() * elements * passes) as f64)
}

/// Elements of a convolution's output.
fn conv_outputs(case: &Case) -> usize {
    let (image, weight) = (&case.inputs[0].shape, &case.inputs[1].shape);
    let side =
        |axis: usize| (image[axis] + 2 * option(case, "padding") - weight[axis]) / option(case, "stride") + 1;
    image[0] * side(1) * side(2) * weight[0]
}

/// Integer option of a case.
///
/// # Panics
/// If the case has no such option.
pub fn option(case: &Case, name: &str) -> usize {
    let found = case.options.iter().find(|(option, _)| *option == name);
    found.unwrap_or_else(|| panic!("{} has no option {name}", case.name())).1 as usize
}

impl fmt::Display for Row {
    /// Name of the row, a path: operation, shape, pass.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Row::Step(network, dtype) => {
                write!(f, "step/{}-b{}", network.name(), network.input()[0])?;
                if *dtype == DType::F32 { Ok(()) } else { write!(f, "/{dtype}") }
            }
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
    fn row_names_are_unique() {
        let mut names: Vec<String> = all().iter().map(Row::to_string).collect();
        let rows = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), rows);
    }

    #[test]
    fn convolution_counts_two_flops_per_tap() {
        let row = all().into_iter().find(|row| row.to_string() == "conv2d/3x3s2-64to128-56x56-b16/forward");
        let flops = 2.0 * (16 * 28 * 28 * 128) as f64 * (3 * 3 * 64) as f64;
        assert_eq!(row.expect("the table has this row").work(), Some(RowWork::Flops(flops)));
    }
}
