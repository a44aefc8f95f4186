//! Every case through Fornax.
mod operation;

use crate::cases::Case;
use crate::measure::{Work, time};
use fornax_engine::random::{Key, Stream};
use fornax_engine::{DType, Device, Result, Shape, Tensor, no_grad};

/// The case, ready to run on rayon's threads; none for what Fornax cannot do.
pub fn prepare(case: &Case) -> Option<Work> {
    match *case {
        Case::Step(_) | Case::Update(..) => None,
        _ => operation::prepare(case),
    }
}

/// The row of an operation on `operands`, whose `pass` is timed; backward is to the operands that `differentiated` says.
fn operation(
    operands: Vec<Tensor>,
    differentiated: &[bool],
    f: impl Fn(&[Tensor]) -> Result<Tensor> + 'static,
) -> Work {
    if !differentiated.contains(&true) {
        return Box::new(move || no_grad(|| time(|| done(f(&operands)))));
    }
    let operands: Vec<Tensor> = operands
        .iter()
        .zip(differentiated)
        .map(|(t, &wanted)| if wanted { t.variable() } else { t.clone() })
        .collect();
    let upstream = randn(*no_grad(|| done(f(&operands))).shape());
    Box::new(move || {
        let y = done(f(&operands));
        let spent = time(|| done(y.backward_from(&upstream)));
        operands.iter().for_each(Tensor::zero_grad);
        spent
    })
}

/// Normally distributed numbers, the same in each run.
fn randn(shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    let mut stream = Stream::new(Key::new(0, "bench"), 0, shape.numel() as u64);
    done(Tensor::build(shape, |out: &mut [f32]| out.iter_mut().for_each(|x| *x = stream.normal())))
}

fn full(channels: usize, value: f64) -> Tensor {
    done(Tensor::full([channels], value, DType::F32, &Device::Cpu))
}

/// Class indices, spread over all classes.
fn target(n: usize, classes: usize) -> Tensor {
    let target: Vec<i64> = (0..n).map(|i| (i * 7919 % classes) as i64).collect();
    done(Tensor::from_vec(target, [n]))
}

/// A bench has nobody to hand an error to.
fn done<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
