//! The peer: every case through libtorch, by tch.
//!
//! Images reach libtorch as `[n, c, h, w]` in either memory order. tch has no `memory_format`; a contiguous
//! `[n, h, w, c]` tensor seen through `permute` is what PyTorch calls channels-last, and libtorch's operations keep to it.
mod network;
mod operation;

pub use network::TrainingStep;

use crate::cases::Case;
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

    /// Normally distributed numbers, logically `[n, c, h, w]`, in this order in memory.
    fn randn(self, [n, h, w, c]: [usize; 4]) -> Tensor {
        let [n, h, w, c] = [n, h, w, c].map(|extent| extent as i64);
        match self {
            Layout::ChannelsLast => Tensor::randn([n, h, w, c], FLOAT).permute([0, 3, 1, 2]),
            Layout::ChannelsFirst => Tensor::randn([n, c, h, w], FLOAT),
        }
    }
}

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

/// The layouts in which a case differs; their better one is the peer.
pub fn layouts(case: &Case) -> &'static [Layout] {
    match case {
        Case::Linear(..) | Case::CrossEntropy(..) | Case::Elementwise(..) | Case::Update(..) => {
            &[Layout::ChannelsLast]
        }
        _ => &[Layout::ChannelsLast, Layout::ChannelsFirst],
    }
}

/// The case, ready to run on `threads` threads.
pub fn prepare(case: &Case, layout: Layout, threads: usize) -> Work {
    tch::set_num_threads(threads as i32);
    tch::manual_seed(0);
    match *case {
        Case::Step(network) => {
            let mut step = TrainingStep::new(network, layout);
            Box::new(move || time(|| step.run()))
        }
        Case::Update(optimizer, network) => network::update(optimizer, network),
        _ => operation::prepare(case, layout),
    }
}

/// The row of a forward pass.
fn forward(mut run: impl FnMut() -> Tensor + 'static) -> Work {
    Box::new(move || tch::no_grad(|| time(&mut run)))
}

/// The row of a backward pass from an upstream gradient to `inputs`.
///
/// tch cannot hand an upstream gradient to `autograd::grad`, so the graph ends in `sum(y * upstream)`, whose backward
/// writes `1 * upstream`. What that takes is measured by itself each time and subtracted.
fn backward(mut run: impl FnMut() -> Tensor + 'static, inputs: Vec<Tensor>) -> Work {
    let (upstream, alone) = tch::no_grad(|| {
        let y = run();
        (y.randn_like(), y.randn_like().set_requires_grad(true))
    });
    let differentiate = |scalar: Tensor, inputs: &[&Tensor]| -> Time {
        time(|| Tensor::run_backward(&[scalar], inputs, false, false))
    };
    Box::new(move || {
        let with = weighted_sum(&run(), &upstream);
        let without = weighted_sum(&alone, &upstream);
        let inputs: Vec<&Tensor> = inputs.iter().collect();
        let whole = differentiate(with, &inputs);
        whole - differentiate(without, &[&alone])
    })
}

/// `sum(y * upstream)`, over both in memory order.
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
