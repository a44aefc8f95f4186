//! The table of rows: operations at the shapes of the five networks, and a training step of each network.
use crate::networks::Network;
use fornax_engine::ConvShape;
use std::fmt;

/// What one row measures. Shapes are `[n, h, w, c]`, all f32.
#[derive(Clone, Copy, Debug)]
pub enum Case {
    /// 2-D convolution without bias.
    Conv(ConvShape, Pass),
    /// Batch normalisation with batch statistics, and what is fused with it. Backward is to input, scale and shift.
    BatchNorm([usize; 4], Fusion, Pass),
    /// Max pooling, 3×3, stride 2, padding 1.
    MaxPool([usize; 4], Pass),
    /// Average pooling, 2×2, stride 2.
    AvgPool([usize; 4], Pass),
    /// Mean over height and width.
    GlobalPool([usize; 4], Pass),
    /// Fully connected with bias: batch, inputs, outputs. Backward is to input, weight and bias.
    Linear([usize; 3], Pass),
    /// Mean cross entropy of logits `[batch, classes]`.
    CrossEntropy([usize; 2], Pass),
    /// An operation on each element.
    Elementwise(Elementwise, [usize; 4], Pass),
    /// The sum over all axes but the last, `[n, h, w, c]` to `[c]`.
    SumToChannels([usize; 4]),
    /// One optimizer update of a network's parameters.
    Update(Optimizer, Network),
    /// A training step: forward, cross entropy, backward, SGD with momentum 0.9; the loss is read.
    Step(Network),
}

/// Which direction is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Input to output, nothing recorded.
    Forward,
    /// From an upstream gradient of the output to all inputs.
    Backward,
    /// To the input alone.
    BackwardInput,
    /// To the weight alone.
    BackwardWeight,
}

/// What a batch norm does beside normalising.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fusion {
    /// Nothing.
    Plain,
    /// ReLU of the result.
    Relu,
    /// ReLU of the result plus a second input of its shape.
    AddRelu,
}

/// Operations on each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elementwise {
    /// `max(x, 0)`.
    Relu,
    /// Sum of two tensors.
    Add,
    /// Product of two tensors.
    Mul,
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
pub fn all() -> Vec<Case> {
    use Pass::*;
    let mut cases: Vec<Case> = Network::ALL.into_iter().map(Case::Step).collect();
    for (shape, passes) in convolutions() {
        cases.extend(passes.iter().map(|&pass| Case::Conv(shape, pass)));
    }
    for pass in [Forward, Backward] {
        for shape in [[16, 56, 56, 256], [16, 56, 56, 64], [256, 28, 28, 32], [64, 8, 8, 256]] {
            for fusion in [Fusion::Plain, Fusion::Relu, Fusion::AddRelu] {
                cases.push(Case::BatchNorm(shape, fusion, pass));
            }
        }
        cases.push(Case::MaxPool([16, 112, 112, 64], pass));
        cases.push(Case::AvgPool([16, 56, 56, 256], pass));
        cases.push(Case::GlobalPool([16, 7, 7, 512], pass));
        cases.push(Case::GlobalPool([256, 7, 7, 128], pass));
        cases.push(Case::Linear([256, 128, 10], pass));
        cases.push(Case::Linear([64, 512, 1000], pass));
        cases.push(Case::Linear([1024, 1024, 1024], pass));
        cases.push(Case::CrossEntropy([256, 10], pass));
        cases.push(Case::CrossEntropy([256, 1000], pass));
        for op in [Elementwise::Relu, Elementwise::Add, Elementwise::Mul] {
            // The backward pass of a sum hands the upstream gradient on: no work.
            if (op, pass) != (Elementwise::Add, Backward) {
                cases.push(Case::Elementwise(op, [16, 56, 56, 256], pass));
            }
        }
    }
    cases.push(Case::SumToChannels([16, 56, 56, 256]));
    for optimizer in [Optimizer::Sgd, Optimizer::AdamW] {
        cases.push(Case::Update(optimizer, Network::Resnet18));
    }
    cases
}

/// The convolutions, and the passes that a network needs of each: the first layer's input gets no gradient.
fn convolutions() -> Vec<(ConvShape, &'static [Pass])> {
    use Pass::*;
    let strided = |shape| ConvShape { stride: [2; 2], ..shape };
    let grouped = |shape, groups| ConvShape { groups, ..shape };
    let first = [
        strided(conv(7, 3, 64, 224, 16)),
        strided(conv(3, 3, 32, 224, 8)),
        conv(3, 3, 64, 32, 64),
        conv(3, 1, 32, 28, 256),
    ];
    let inner = [
        conv(3, 64, 64, 56, 16),
        conv(3, 128, 128, 28, 16),
        conv(3, 256, 256, 14, 16),
        conv(3, 512, 512, 7, 16),
        strided(conv(3, 64, 128, 56, 16)),
        strided(conv(1, 64, 128, 56, 16)),
        conv(1, 256, 64, 56, 16),
        conv(1, 64, 256, 56, 16),
        conv(1, 1024, 2048, 7, 8),
        strided(conv(3, 32, 64, 28, 256)),
        strided(conv(3, 64, 128, 14, 256)),
        conv(3, 64, 64, 32, 64),
        conv(3, 128, 128, 16, 64),
        conv(3, 256, 256, 8, 64),
        conv(3, 512, 512, 4, 64),
        conv(1, 24, 144, 56, 16),
        conv(1, 960, 160, 7, 16),
        grouped(conv(3, 32, 32, 112, 16), 32),
        strided(grouped(conv(3, 96, 96, 112, 16), 96)),
        grouped(conv(3, 144, 144, 56, 16), 144),
        grouped(conv(3, 960, 960, 7, 16), 960),
        grouped(conv(3, 128, 128, 28, 16), 4),
    ];
    let first = first.map(|shape| (shape, [Forward, BackwardWeight].as_slice()));
    let inner = inner.map(|shape| (shape, [Forward, BackwardInput, BackwardWeight].as_slice()));
    first.into_iter().chain(inner).collect()
}

/// A convolution with a square kernel on square planes: stride 1, padding `kernel / 2`, one group.
fn conv(kernel: usize, c_in: usize, c_out: usize, plane: usize, n: usize) -> ConvShape {
    ConvShape {
        n,
        h: plane,
        w: plane,
        c_in,
        c_out,
        kernel: [kernel; 2],
        stride: [1; 2],
        padding: [kernel / 2; 2],
        dilation: [1; 2],
        groups: 1,
    }
}

/// The arithmetic or the traffic that a row cannot do without.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Floating-point operations, a multiply-add as two.
    Flops(f64),
    /// Bytes read and written with every operand passed over as often as the definition needs.
    Bytes(f64),
    /// Many operations: no single limit.
    Mixed,
}

impl Case {
    /// What bounds this row.
    pub fn load(&self) -> Load {
        use Pass::*;
        let bytes = |elements: usize, passes: usize| Load::Bytes((4 * elements * passes) as f64);
        let len = |shape: &[usize]| shape.iter().product::<usize>();
        match self {
            Case::Conv(shape, _) if shape.is_depthwise() => bytes(shape.input_len() + shape.output_len(), 1),
            Case::Conv(shape, _) => Load::Flops(2.0 * shape.macs() as f64),
            Case::Linear(shape, Forward) => Load::Flops(2.0 * len(shape) as f64),
            Case::Linear(shape, _) => Load::Flops(4.0 * len(shape) as f64),
            // Statistics, then apply: x, x, y. Backward: x, dy, x, dy, dx. A residual adds one operand to each.
            Case::BatchNorm(shape, fusion, pass) => {
                let residual = usize::from(*fusion == Fusion::AddRelu);
                bytes(len(shape), if *pass == Forward { 3 } else { 5 } + residual)
            }
            Case::MaxPool(shape, _) | Case::AvgPool(shape, _) => bytes(len(shape) / 4 * 5, 1),
            Case::GlobalPool(shape, _) | Case::SumToChannels(shape) => bytes(len(shape), 1),
            Case::CrossEntropy(shape, _) => bytes(len(shape), 1),
            Case::Elementwise(Elementwise::Relu, shape, Forward) => bytes(len(shape), 2),
            Case::Elementwise(Elementwise::Mul, shape, Backward) => bytes(len(shape), 5),
            Case::Elementwise(_, shape, _) => bytes(len(shape), 3),
            // Parameter and each moment read and written, gradient read.
            Case::Update(Optimizer::Sgd, network) => bytes(crate::networks::parameters(&network.layers()), 5),
            Case::Update(Optimizer::AdamW, network) => {
                bytes(crate::networks::parameters(&network.layers()), 7)
            }
            Case::Step(_) => Load::Mixed,
        }
    }
}

impl fmt::Display for Case {
    /// The row's name: family, shape, direction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nhwc = |[n, h, w, c]: [usize; 4]| format!("{n}x{h}x{w}x{c}");
        match *self {
            Case::Conv(s, pass) => {
                let family = if s.is_depthwise() { "depthwise" } else { "conv" };
                write!(f, "{family}/{}x{}", s.kernel[0], s.kernel[1])?;
                if s.stride[0] > 1 {
                    write!(f, "s{}", s.stride[0])?;
                }
                if s.groups > 1 && !s.is_depthwise() {
                    write!(f, "g{}", s.groups)?;
                }
                write!(f, "-{}to{}-{}x{}-b{}/{pass}", s.c_in, s.c_out, s.h, s.w, s.n)
            }
            Case::BatchNorm(shape, fusion, pass) => {
                let tail = match fusion {
                    Fusion::Plain => "",
                    Fusion::Relu => "-relu",
                    Fusion::AddRelu => "-add-relu",
                };
                write!(f, "batch-norm{tail}/{}/{pass}", nhwc(shape))
            }
            Case::MaxPool(shape, pass) => write!(f, "max-pool/{}/{pass}", nhwc(shape)),
            Case::AvgPool(shape, pass) => write!(f, "avg-pool/{}/{pass}", nhwc(shape)),
            Case::GlobalPool(shape, pass) => write!(f, "global-pool/{}/{pass}", nhwc(shape)),
            Case::Linear([n, i, o], pass) => write!(f, "linear/{n}x{i}to{o}/{pass}"),
            Case::CrossEntropy([n, c], pass) => write!(f, "cross-entropy/{n}x{c}/{pass}"),
            Case::Elementwise(op, shape, pass) => {
                let op = match op {
                    Elementwise::Relu => "relu",
                    Elementwise::Add => "add",
                    Elementwise::Mul => "mul",
                };
                write!(f, "{op}/{}/{pass}", nhwc(shape))
            }
            Case::SumToChannels(shape) => write!(f, "sum-to-channels/{}/forward", nhwc(shape)),
            Case::Update(optimizer, network) => {
                let optimizer = match optimizer {
                    Optimizer::Sgd => "sgd",
                    Optimizer::AdamW => "adamw",
                };
                write!(f, "update/{optimizer}-{}", network.name())
            }
            Case::Step(network) => write!(f, "step/{}-b{}", network.name(), network.input()[0]),
        }
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pass::Forward => "forward",
            Pass::Backward => "backward",
            Pass::BackwardInput => "backward-input",
            Pass::BackwardWeight => "backward-weight",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> = all().iter().map(Case::to_string).collect();
        let rows = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), rows);
    }

    #[test]
    fn a_name_says_the_shape() {
        let shape = ConvShape { stride: [2; 2], ..conv(3, 64, 128, 56, 16) };
        assert_eq!(
            Case::Conv(shape, Pass::BackwardInput).to_string(),
            "conv/3x3s2-64to128-56x56-b16/backward-input"
        );
        assert_eq!(Case::Step(Network::Resnet18Cifar).to_string(), "step/resnet18-cifar-b64");
    }
}
