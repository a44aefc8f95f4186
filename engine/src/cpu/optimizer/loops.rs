//! Dedicated loops for the most used update rules: the whole formula in one pass, instead of one pass per term.
use crate::cpu::vectorized::vectorized;
use crate::dtype::Real;
use crate::fuse::CpuLoop;

/// Scalars of a parameter for a dedicated loop.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    /// Number of this update, starting at 1.
    pub(super) updates: i64,
    pub(super) rate: f64,
    pub(super) decay: f64,
    /// Factor of the gradients.
    pub(super) factor: f32,
}

/// Updates a chunk.
pub(super) fn run(
    which: CpuLoop,
    n: Numbers,
    weights: &mut [f32],
    gradient: &[f32],
    moments: &mut [&mut [f32]],
) {
    match (which, moments) {
        (CpuLoop::Sgd { momentum, nesterov }, [buffer]) => {
            let numbers = [n.factor, n.decay as f32, momentum as f32, n.rate as f32];
            if nesterov {
                nesterov_sgd(numbers, weights, gradient, buffer);
            } else {
                sgd(numbers, weights, gradient, buffer);
            }
        }
        (CpuLoop::AdamW { betas, eps }, [first, second]) => {
            let [correction1, correction2] = betas.map(|beta| 1.0 - beta.powf(n.updates as f64));
            let [rest1, rest2] = betas.map(|beta| (1.0 - beta) as f32);
            let [beta1, beta2] = betas.map(|beta| beta as f32);
            let keep = (1.0 - n.rate * n.decay) as f32;
            let (size, root) = ((n.rate / correction1) as f32, (1.0 / correction2.sqrt()) as f32);
            let numbers = [n.factor, keep, beta1, rest1, beta2, rest2, size, root, eps as f32];
            adamw(numbers, weights, gradient, first, second);
        }
        _ => unreachable!("the rule has the state that its loop needs"),
    }
}

vectorized! {
    wide fn sgd<T: Real>(numbers: [T; 4], weights: &mut [T], gradient: &[T], buffer: &mut [T]) {
        let [factor, decay, momentum, rate] = numbers;
        for ((p, b), g) in weights.iter_mut().zip(buffer).zip(gradient) {
            *b = momentum * *b + (factor * *g + decay * *p);
            *p -= rate * *b;
        }
    }
}

vectorized! {
    wide fn nesterov_sgd<T: Real>(numbers: [T; 4], weights: &mut [T], gradient: &[T], buffer: &mut [T]) {
        let [factor, decay, momentum, rate] = numbers;
        for ((p, b), g) in weights.iter_mut().zip(buffer).zip(gradient) {
            let g = factor * *g + decay * *p;
            *b = momentum * *b + g;
            *p -= rate * (g + momentum * *b);
        }
    }
}

vectorized! {
    wide fn adamw<T: Real>(numbers: [T; 9], weights: &mut [T], gradient: &[T], first: &mut [T], second: &mut [T]) {
        let [factor, keep, beta1, rest1, beta2, rest2, size, root, eps] = numbers;
        for (((p, m), v), g) in weights.iter_mut().zip(first).zip(second).zip(gradient) {
            let g = factor * *g;
            *m = beta1 * *m + rest1 * g;
            *v = beta2 * *v + rest2 * g * g;
            *p = *p * keep - size * *m / (v.sqrt() * root + eps);
        }
    }
}
