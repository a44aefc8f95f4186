//! The peer: the rows through libtorch, by tch.
//!
//! Images reach libtorch as `[n, c, h, w]` in either memory order. tch has no `memory_format`; a contiguous
//! `[n, h, w, c]` tensor seen through `permute` is what PyTorch calls channels-last, and libtorch's operations keep to it.
mod image;
mod network;
mod operation;

pub use network::TrainingStep;
pub use operation::Operation;

use crate::cases::{Pass, Row};
use crate::measure::{Time, Work, time};
use tch::{Device, Kind, Tensor};

/// Memory order of image batches and convolution weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Row-major as `[n, h, w, c]` and `[out, kh, kw, in]`.
    ChannelsLast,
    /// Row-major as `[n, c, h, w]` and `[out, in, kh, kw]`: libtorch's default.
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

    /// A row-major `[n, h, w, c]` tensor as `[n, c, h, w]` in this order in memory.
    fn arrange(self, nhwc: &Tensor) -> Tensor {
        let nchw = nhwc.permute([0, 3, 1, 2]);
        match self {
            Layout::ChannelsLast => nchw,
            // The view sets the strides of a row-major tensor: a 1×1 kernel is row-major in both senses, and with the
            // other strides libtorch would take it, and then the images, as channels-last.
            Layout::ChannelsFirst => nchw.contiguous().view(-1).view(nchw.size().as_slice()),
        }
    }
}

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Operations whose gradient libtorch returns as a view, expanded, permuted or narrowed, for the next operation to pay for.
const VIEWED: [&str; 3] = ["sum", "permute", "concat"];

/// The row in each layout in which it differs, ready to run on `threads` threads; the better one is the peer. Empty
/// when libtorch has no such operation, or does none of its work.
pub fn prepare(row: &Row, threads: usize) -> Vec<(Layout, Work)> {
    tch::set_num_threads(threads as i32);
    tch::manual_seed(0);
    let layouts = [Layout::ChannelsLast, Layout::ChannelsFirst];
    match row {
        Row::Step(network) => layouts
            .map(|layout| {
                let mut step = TrainingStep::new(*network, layout);
                (layout, Box::new(move || time(|| step.run())) as Work)
            })
            .into(),
        Row::Update(optimizer, network) => vec![(layouts[0], network::update(*optimizer, *network))],
        Row::Operation(case, pass) => {
            if *pass != Pass::Forward && VIEWED.contains(&case.op) {
                return vec![];
            }
            let count = if Operation::is_of_images(case) { 2 } else { 1 };
            let prepare = |&layout| Some((layout, timed(Operation::new(case, layout)?, *pass)));
            layouts[..count].iter().filter_map(prepare).collect()
        }
    }
}

fn timed(operation: Operation, pass: Pass) -> Work {
    match pass {
        Pass::Forward => Box::new(move || tch::no_grad(|| time(|| operation.run()))),
        Pass::Backward => backward(operation.with_gradients(|_| true)),
        Pass::BackwardTo(chosen) => backward(operation.with_gradients(|i| i == chosen)),
    }
}

/// The row of a backward pass from an upstream gradient to the operands that have one.
///
/// tch cannot hand an upstream gradient to `autograd::grad`, so the graph ends in `sum(y * upstream)`, whose backward
/// writes `1 * upstream`. What that takes is measured by itself each time and subtracted.
fn backward(operation: Operation) -> Work {
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

/// `sum(y * upstream)`, over both in memory order, which is the same.
fn weighted_sum(y: &Tensor, upstream: &Tensor) -> Tensor {
    in_memory_order(y).dot(&in_memory_order(upstream))
}

/// The elements as one axis, without a copy.
///
/// # Panics
/// When the tensor is neither row-major nor channels-last: then an operation left the layout that is being measured.
fn in_memory_order(t: &Tensor) -> Tensor {
    if t.is_contiguous() { t.view(-1) } else { t.permute([0, 2, 3, 1]).view(-1) }
}
