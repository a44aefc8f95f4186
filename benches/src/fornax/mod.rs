//! Rows in Fornax.
mod network;

pub use network::{Sequential, TrainingStep};

use crate::measure::{TimedRun, time};
use crate::rows::{Pass, Row};
use fornax_engine::{DType, Tensor, no_grad};
use fornax_tests::cases::Case;
use std::rc::Rc;

/// Prepares a row to run on rayon's threads.
pub fn prepare(row: &Row) -> TimedRun {
    match row {
        Row::Step(network, dtype) => {
            let mut step = TrainingStep::new(*network, *dtype);
            Box::new(move || time(|| step.run()))
        }
        Row::Update(optimizer, network) => network::update_run(*optimizer, *network),
        Row::Operation(case, pass) => operation(case.clone(), *pass),
    }
}

fn operation(case: Rc<Case>, pass: Pass) -> TimedRun {
    let mut operands = unwrap(case.tensors(DType::F32));
    if let Pass::BackwardTo(chosen) = pass {
        operands = operands
            .iter()
            .enumerate()
            .map(|(i, operand)| if i == chosen { operand.clone() } else { operand.detach() })
            .collect();
    }
    if pass == Pass::Forward {
        return Box::new(move || no_grad(|| time(|| unwrap((case.run)(&operands)))));
    }
    let upstream = no_grad(|| unwrap(case.upstream(&unwrap((case.run)(&operands)), DType::F32)));
    Box::new(move || {
        let y = unwrap((case.run)(&operands));
        let elapsed = time(|| unwrap(y.backward_from(&upstream)));
        operands.iter().for_each(Tensor::zero_grad);
        elapsed
    })
}

/// Unwraps a result; panics with the error's message.
fn unwrap<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
