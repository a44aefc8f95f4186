//! The table of cases: each operation at small shapes, where gradients are checked against finite differences, and at the shapes of the
//! benchmarks. Parity tests, gradient tests and benches use it; a new operation is one row.
mod basic;
mod case;
mod conv;
mod fused;
mod loss;
mod nonlinear;
mod pool;

pub use case::{Case, Input, Values};

/// Names of the operations of these rows, each once, in alphabetical order.
pub fn operations(rows: &[Case]) -> Vec<&'static str> {
    let mut names: Vec<_> = rows.iter().map(|case| case.op).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Every row.
pub fn all() -> Vec<Case> {
    let mut rows = vec![];
    basic::rows(&mut rows);
    conv::rows(&mut rows);
    fused::rows(&mut rows);
    loss::rows(&mut rows);
    nonlinear::rows(&mut rows);
    pool::rows(&mut rows);
    rows
}
