//! Single operations.
use super::{full, operation, randn, target};
use crate::cases::{Case, Elementwise, Pass};
use crate::measure::Work;
use fornax_engine::{Conv2d, Result, Tensor};

/// The row of an operation; steps and updates are not operations.
pub(super) fn prepare(case: &Case) -> Option<Work> {
    Some(match *case {
        Case::Conv(shape, pass) => {
            let x = randn([shape.n, shape.h, shape.w, shape.c_in]);
            let weight = randn([shape.c_out, shape.kernel[0], shape.kernel[1], shape.group_in()]);
            let options = Conv2d {
                stride: shape.stride,
                padding: shape.padding,
                dilation: shape.dilation,
                groups: shape.groups,
            };
            let to = [pass == Pass::BackwardInput, pass == Pass::BackwardWeight];
            operation(vec![x, weight], &to, move |t| t[0].conv2d(&t[1], None, &options))
        }
        Case::Linear([n, c_in, c_out], pass) => {
            let operands = vec![randn([n, c_in]), randn([c_out, c_in]), full(c_out, 0.0)];
            all(operands, pass, |t| t[0].linear(&t[1], Some(&t[2])))
        }
        Case::CrossEntropy([n, classes], pass) => {
            let target = target(n, classes);
            all(vec![randn([n, classes])], pass, move |t| t[0].cross_entropy(&target, 0.0))
        }
        Case::Elementwise(op, shape, pass) => match op {
            Elementwise::Relu => all(vec![randn(shape)], pass, |t| t[0].relu()),
            Elementwise::Add => all(vec![randn(shape), randn(shape)], pass, |t| t[0].add(&t[1])),
            Elementwise::Mul => return None,
        },
        Case::SumToChannels(shape) => all(vec![randn(shape)], Pass::Forward, |t| t[0].sum(&[0, 1, 2], false)),
        _ => return None,
    })
}

/// An operation that is differentiated with respect to all its operands.
fn all(operands: Vec<Tensor>, pass: Pass, f: impl Fn(&[Tensor]) -> Result<Tensor> + 'static) -> Work {
    let differentiated = vec![pass != Pass::Forward; operands.len()];
    operation(operands, &differentiated, f)
}
