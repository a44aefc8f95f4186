//! Single operations.
use super::{FLOAT, Layout, backward, forward};
use crate::cases::{Case, Elementwise, Fusion, Pass};
use crate::measure::Work;
use fornax_engine::ConvShape;
use tch::{Kind, Reduction, Tensor};

/// The row of an operation; steps and updates are not operations.
pub(super) fn prepare(case: &Case, layout: Layout) -> Work {
    match *case {
        Case::Conv(shape, pass) => conv(shape, layout, pass),
        Case::BatchNorm(shape, fusion, pass) => batch_norm(shape, fusion, layout, pass),
        Case::MaxPool(shape, pass) => {
            unary(layout.randn(shape), pass, |x| x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false))
        }
        Case::AvgPool(shape, pass) => {
            unary(layout.randn(shape), pass, |x| x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None))
        }
        Case::GlobalPool(shape, pass) => unary(layout.randn(shape), pass, |x| x.adaptive_avg_pool2d([1, 1])),
        Case::Linear([n, c_in, c_out], pass) => {
            let [n, c_in, c_out] = [n, c_in, c_out].map(|extent| extent as i64);
            let parts = [&[n, c_in][..], &[c_out, c_in], &[c_out]];
            nary(parts.map(|shape| Tensor::randn(shape, FLOAT)).into(), pass, |t| {
                t[0].linear(&t[1], Some(&t[2]))
            })
        }
        Case::CrossEntropy([n, classes], pass) => {
            let target = Tensor::randint(classes as i64, [n as i64], (Kind::Int64, FLOAT.1));
            unary(Tensor::randn([n as i64, classes as i64], FLOAT), pass, move |logits| {
                logits.cross_entropy_loss::<&Tensor>(&target, None, Reduction::Mean, -100, 0.0)
            })
        }
        Case::Elementwise(op, shape, pass) => {
            let operands = vec![layout.randn(shape), layout.randn(shape)];
            match op {
                Elementwise::Relu => unary(layout.randn(shape), pass, |x| x.relu()),
                Elementwise::Add => nary(operands, pass, |t| &t[0] + &t[1]),
                Elementwise::Mul => nary(operands, pass, |t| &t[0] * &t[1]),
            }
        }
        Case::SumToChannels(shape) => unary(layout.randn(shape), Pass::Forward, |x| {
            x.sum_dim_intlist([0i64, 2, 3].as_slice(), false, Kind::Float)
        }),
        Case::Update(..) | Case::Step(_) => unreachable!("{case} is not a single operation"),
    }
}

fn unary(x: Tensor, pass: Pass, f: impl Fn(&Tensor) -> Tensor + 'static) -> Work {
    nary(vec![x], pass, move |t| f(&t[0]))
}

/// An operation that is differentiated with respect to all its operands.
fn nary(operands: Vec<Tensor>, pass: Pass, f: impl Fn(&[Tensor]) -> Tensor + 'static) -> Work {
    if pass == Pass::Forward {
        return forward(move || f(&operands));
    }
    let operands: Vec<Tensor> = operands.into_iter().map(|t| t.set_requires_grad(true)).collect();
    let inputs = operands.iter().map(Tensor::shallow_clone).collect();
    backward(move || f(&operands), inputs)
}

fn conv(shape: ConvShape, layout: Layout, pass: Pass) -> Work {
    let x = layout.randn([shape.n, shape.h, shape.w, shape.c_in]);
    let [kh, kw] = shape.kernel;
    let weight = layout.randn([shape.c_out, kh, kw, shape.group_in()]);
    let [stride, padding, dilation] =
        [shape.stride, shape.padding, shape.dilation].map(|pair| pair.map(|extent| extent as i64));
    let groups = shape.groups as i64;
    let x = x.set_requires_grad(pass == Pass::BackwardInput);
    let weight = weight.set_requires_grad(pass == Pass::BackwardWeight);
    let inputs = vec![if pass == Pass::BackwardInput { x.shallow_clone() } else { weight.shallow_clone() }];
    let run = move || x.conv2d(&weight, None::<&Tensor>, stride, padding, dilation, groups);
    if pass == Pass::Forward { forward(run) } else { backward(run, inputs) }
}

fn batch_norm(shape: [usize; 4], fusion: Fusion, layout: Layout, pass: Pass) -> Work {
    let channels = [shape[3] as i64];
    let (mean, variance) = (Tensor::zeros(channels, FLOAT), Tensor::ones(channels, FLOAT));
    let operands = vec![
        layout.randn(shape),
        Tensor::ones(channels, FLOAT),
        Tensor::zeros(channels, FLOAT),
        layout.randn(shape),
    ];
    let inputs = if fusion == Fusion::AddRelu { 4 } else { 3 };
    nary(operands.into_iter().take(inputs).collect(), pass, move |t| {
        let mut y =
            t[0].batch_norm(Some(&t[1]), Some(&t[2]), Some(&mean), Some(&variance), true, 0.1, 1e-5, false);
        // In place, as timm's models have it.
        match fusion {
            Fusion::Plain => y,
            Fusion::Relu => y.relu_(),
            Fusion::AddRelu => y.g_add_(&t[3]).relu_(),
        }
    })
}
