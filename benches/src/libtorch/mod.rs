//! Rows in libtorch, by tch.
//!
//! Images are `[n, c, h, w]` in either memory format. tch has no `memory_format`; `permute` of a contiguous `[n, h, w, c]` tensor has
//! PyTorch's channels-last strides, which libtorch's operations preserve.
mod image;
mod network;
mod operation;

pub use network::TrainingStep;
pub use operation::Operation;

use crate::measure::{Time, TimedRun, time};
use crate::rows::{Pass, Row};
use tch::{Device, Kind, Tensor};

/// Memory format of image batches and convolution weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Contiguous as `[n, h, w, c]` and `[out, kh, kw, in]`.
    ChannelsLast,
    /// Contiguous as `[n, c, h, w]` and `[out, in, kh, kw]`: libtorch's default.
    ChannelsFirst,
}

impl Layout {
    /// Name in the results.
    pub fn name(self) -> &'static str {
        match self {
            Layout::ChannelsLast => "NHWC",
            Layout::ChannelsFirst => "NCHW",
        }
    }

    /// Converts a contiguous `[n, h, w, c]` tensor to `[n, c, h, w]` in this memory format.
    fn arrange(self, nhwc: &Tensor) -> Tensor {
        let nchw = nhwc.permute([0, 3, 1, 2]);
        match self {
            Layout::ChannelsLast => nchw,
            // The view sets default strides. A 1×1 kernel is contiguous in both formats, and with the other strides libtorch would treat
            // it, and then the images, as channels-last.
            Layout::ChannelsFirst => nchw.contiguous().view(-1).view(nchw.size().as_slice()),
        }
    }
}

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Operations whose gradient libtorch returns as a view (expanded, permuted or narrowed), which does no work.
const VIEW_GRADIENT_OPS: [&str; 3] = ["sum", "permute", "concat"];

/// Prepares a row in each memory format that makes a difference, to run on `threads` threads. Empty if libtorch lacks the operation or
/// returns a view.
pub fn prepare(row: &Row, threads: usize) -> Vec<(Layout, TimedRun)> {
    tch::set_num_threads(threads as i32);
    tch::manual_seed(0);
    let layouts = [Layout::ChannelsLast, Layout::ChannelsFirst];
    match row {
        Row::Step(network, dtype) => layouts
            .map(|layout| {
                let mut step = TrainingStep::new(*network, layout, *dtype);
                (layout, Box::new(move || time(|| step.run())) as TimedRun)
            })
            .into(),
        Row::Update(optimizer, network) => vec![(layouts[0], network::update(*optimizer, *network))],
        Row::Operation(case, pass) => {
            if *pass != Pass::Forward && VIEW_GRADIENT_OPS.contains(&case.op) {
                return vec![];
            }
            let count = if Operation::has_image_layout(case) { 2 } else { 1 };
            let prepare = |&layout| Some((layout, timed(Operation::new(case, layout)?, *pass)));
            layouts[..count].iter().filter_map(prepare).collect()
        }
    }
}

fn timed(operation: Operation, pass: Pass) -> TimedRun {
    match pass {
        Pass::Forward => Box::new(move || tch::no_grad(|| time(|| operation.run()))),
        Pass::Backward => backward(operation.with_gradients(|_| true)),
        Pass::BackwardTo(chosen) => backward(operation.with_gradients(|i| i == chosen)),
    }
}

/// Prepares the row of a backward pass from an upstream gradient to the operands that require a gradient.
///
/// tch cannot pass an upstream gradient to `autograd::grad`, so the graph ends in `sum(y * upstream)`, whose backward pass writes
/// `1 * upstream`. Each run also measures that alone, and subtracts it.
fn backward(operation: Operation) -> TimedRun {
    let (upstream, alone) = tch::no_grad(|| {
        let y = operation.run();
        (y.randn_like(), y.randn_like().set_requires_grad(true))
    });
    let differentiate = |scalar: Tensor, inputs: &[&Tensor]| -> Time {
        time(|| Tensor::run_backward(&[scalar], inputs, false, false))
    };
    Box::new(move || {
        let with = weighted_sum(&operation.run(), &upstream);
        let without = weighted_sum(&alone, &upstream);
        differentiate(with, &operation.variables()) - differentiate(without, &[&alone])
    })
}

/// `sum(y * upstream)`, in the memory order that both tensors share.
fn weighted_sum(y: &Tensor, upstream: &Tensor) -> Tensor {
    in_memory_order(y).dot(&in_memory_order(upstream))
}

/// View of the elements as one axis, in memory order.
///
/// # Panics
/// If the tensor is neither contiguous nor channels-last, since an operation then changed the layout that is measured.
fn in_memory_order(t: &Tensor) -> Tensor {
    if t.is_contiguous() { t.view(-1) } else { t.permute([0, 2, 3, 1]).view(-1) }
}
