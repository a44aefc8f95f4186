//! Optimizer updates of many parameters at once.
use super::{Array, gpu};
use crate::cuda::optimizer::{self, Parameter};
use crate::{AdamWRule, DType, SgdRule, cpu};

/// Parameters of many lengths: empty, shorter than a pack, longer than a chunk, and more of them than one launch takes.
fn lengths() -> Vec<usize> {
    let mut lengths = vec![5, 0, 64, 40_001, 3];
    lengths.extend(std::iter::repeat_n(9, 340));
    lengths
}

/// Four arrays for each parameter (weights, gradient and two moments), the second moment not below zero.
fn arrays() -> Vec<[Array; 4]> {
    let make = |(seed, len): (usize, usize)| {
        let random = |which| Array::random(len, (4 * seed + which) as u64, DType::F32);
        let second = Array::new(random(3).values.iter().map(|v| v.abs()), DType::F32);
        [random(0), random(1), random(2), second]
    };
    lengths().into_iter().enumerate().map(make).collect()
}

fn decay(i: usize) -> f32 {
    if i.is_multiple_of(2) { 1e-2 } else { 0.0 }
}

fn parameters(arrays: &[[Array; 4]]) -> Vec<Parameter<'_>> {
    let mut parameters = vec![];
    for (i, [weights, gradient, first, second]) in arrays.iter().enumerate() {
        parameters.push(Parameter {
            weights: weights.slice(),
            gradient: gradient.slice(),
            moments: [first.slice(), second.slice()],
            decay: decay(i),
        });
    }
    parameters
}

fn floats(array: &Array) -> Vec<f32> {
    array.values.iter().map(|v| *v as f32).collect()
}

#[track_caller]
fn assert_follows(array: &Array, expected: &[f32], what: &str) {
    array.assert_close(&expected.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), what);
}

#[test]
fn stochastic_gradient_descent() {
    for nesterov in [false, true] {
        let rule = SgdRule { lr: 0.1, momentum: 0.9, nesterov };
        let arrays = arrays();
        optimizer::sgd(gpu(), &parameters(&arrays), &rule).expect("launches");
        for (i, [weights, gradient, buffer, _]) in arrays.iter().enumerate() {
            let (mut w, g, mut b) = (floats(weights), floats(gradient), floats(buffer));
            cpu::optimizer::sgd(&rule, decay(i), &mut w, &g, &mut b);
            assert_follows(weights, &w, &format!("weights of {i}"));
            assert_follows(buffer, &b, &format!("buffer of {i}"));
        }
    }
}

#[test]
fn adam_with_decoupled_decay() {
    let rule = AdamWRule::new(0.1, [0.9, 0.99], 1e-8, 3);
    for shifted in [false, true] {
        let mut arrays = arrays();
        if shifted {
            // Gradients that begin between packs.
            arrays.truncate(5);
            arrays.iter_mut().for_each(|of| of[1] = of[1].shifted());
        }
        optimizer::adamw(gpu(), &parameters(&arrays), &rule).expect("launches");
        for (i, [weights, gradient, first, second]) in arrays.iter().enumerate() {
            let (mut w, g, mut m, mut v) = (floats(weights), floats(gradient), floats(first), floats(second));
            cpu::optimizer::adamw(&rule, decay(i), &mut w, &g, &mut m, &mut v);
            assert_follows(weights, &w, &format!("weights of {i}"));
            assert_follows(first, &m, &format!("first moment of {i}"));
            assert_follows(second, &v, &format!("second moment of {i}"));
        }
    }
}
