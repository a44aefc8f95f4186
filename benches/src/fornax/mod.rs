//! Every row through Fornax.
mod network;

pub use network::{Network, TrainingStep};

use crate::cases::{Pass, Row};
use crate::measure::{Work, time};
use fornax_engine::{DType, Tensor, no_grad};
use fornax_tests::cases::Case;
use std::rc::Rc;

/// The row, ready to run on rayon's threads.
pub fn prepare(row: &Row) -> Work {
    match row {
        Row::Step(network) => {
            let mut step = TrainingStep::new(*network);
            Box::new(move || time(|| step.run()))
        }
        Row::Update(optimizer, network) => network::update(*optimizer, *network),
        Row::Operation(case, pass) => operation(case.clone(), *pass),
    }
}

fn operation(case: Rc<Case>, pass: Pass) -> Work {
    let mut operands = done(case.tensors(DType::F32));
    if let Pass::BackwardTo(chosen) = pass {
        operands = operands
            .iter()
            .enumerate()
            .map(|(i, operand)| if i == chosen { operand.clone() } else { operand.detach() })
            .collect();
    }
    if pass == Pass::Forward {
        return Box::new(move || no_grad(|| time(|| done((case.run)(&operands)))));
    }
    let upstream = no_grad(|| done(case.upstream(&done((case.run)(&operands)), DType::F32)));
    Box::new(move || {
        let y = done((case.run)(&operands));
        let spent = time(|| done(y.backward_from(&upstream)));
        operands.iter().for_each(Tensor::zero_grad);
        spent
    })
}

/// A bench has nobody to hand an error to.
fn done<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
