//! Updates of parameters: one pass over weights, gradient and moments.
use crate::ops::{AdamWRule, SgdRule};
use rayon::prelude::*;

/// Elements that one task updates: large enough to be worth a task, whatever the number of threads.
const PIECE: usize = 1 << 15;

/// SGD with momentum.
pub fn sgd(rule: &SgdRule, weight_decay: f32, weights: &mut [f32], gradient: &[f32], buffer: &mut [f32]) {
    let SgdRule { lr, momentum, nesterov } = *rule;
    let pieces = weights.par_chunks_mut(PIECE).zip(buffer.par_chunks_mut(PIECE));
    pieces.zip(gradient.par_chunks(PIECE)).for_each(|((weights, buffer), gradient)| {
        for ((p, b), g) in weights.iter_mut().zip(buffer).zip(gradient) {
            let g = g + weight_decay * *p;
            *b = momentum * *b + g;
            *p -= lr * if nesterov { g + momentum * *b } else { *b };
        }
    });
}

/// Adam with decoupled weight decay, `keep` being what that leaves of a weight.
pub fn adamw(
    rule: &AdamWRule,
    keep: f32,
    weights: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let AdamWRule { size, root, eps, betas: [beta1, beta2], rests: [rest1, rest2], .. } = *rule;
    let moments = first.par_chunks_mut(PIECE).zip(second.par_chunks_mut(PIECE));
    let pieces = weights.par_chunks_mut(PIECE).zip(moments).zip(gradient.par_chunks(PIECE));
    pieces.for_each(|((weights, (first, second)), gradient)| {
        for (((p, m), v), g) in weights.iter_mut().zip(first).zip(second).zip(gradient) {
            *m = beta1 * *m + rest1 * g;
            *v = beta2 * *v + rest2 * g * g;
            *p = *p * keep - size * *m / (v.sqrt() / root + eps);
        }
    });
}
