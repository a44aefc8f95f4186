//! Updates of parameters: one look at the gradients where they are scaled or clipped, and one pass over everything else.
use crate::dtype::{DType, Element, bf16, f16};
use crate::ops::{GradientRule, Number, UpdateRule};
use rayon::prelude::*;

/// Elements that one task updates: large enough to be worth a task, whatever the number of threads.
const PIECE: usize = 1 << 15;

/// The sum of `(g * factor)^2`, infinite or NaN where a gradient is.
pub fn sum_of_squares(gradient: &[f32], factor: f64) -> f64 {
    let of_piece = |piece: &[f32]| {
        let mut lanes = [0.0f64; 16];
        let (groups, rest) = piece.as_chunks::<16>();
        for group in groups {
            for (lane, g) in lanes.iter_mut().zip(group) {
                let g = f64::from(*g) * factor;
                *lane += g * g;
            }
        }
        for (lane, g) in lanes.iter_mut().zip(rest) {
            let g = f64::from(*g) * factor;
            *lane += g * g;
        }
        lanes.iter().sum::<f64>()
    };
    // Collected, so that the order of the sum is that of the pieces.
    gradient.par_chunks(PIECE).map(of_piece).collect::<Vec<_>>().iter().sum()
}

/// The numbers of one update.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    lr: f32,
    ema_decay: f32,
    factor: f32,
    size: f32,
    root: f32,
}

/// What the next update does, given the sum of squares of all gradients where somebody looked: `None` when it is skipped. Sets the loss
/// scale and the counters accordingly. The kernel `update_decide` does the same.
pub fn decide(
    rule: &UpdateRule,
    gradients: &GradientRule,
    total: Option<f64>,
    numbers: &mut [f32],
    updates: &mut i64,
) -> Option<Step> {
    let at = |n: Number| n as usize;
    let scale = numbers[at(Number::LossScale)];
    let mut factor = 1.0 / f64::from(scale);
    let mut skip = false;
    if let Some(total) = total {
        let norm = total.sqrt();
        numbers[at(Number::Norm)] = norm as f32;
        if let Some(limit) = gradients.clip_norm {
            factor *= (f64::from(limit) / (norm + 1e-6)).min(1.0);
        }
        if let Some(scaling) = &gradients.scaling {
            skip = !total.is_finite();
            let good = if skip { 0 } else { numbers[at(Number::GoodUpdates)] as u32 + 1 };
            let grows = good >= scaling.interval;
            numbers[at(Number::LossScale)] = match skip {
                true => (scale * scaling.backoff).max(scaling.floor),
                false if grows && (scale * scaling.growth).is_finite() => scale * scaling.growth,
                false => scale,
            };
            numbers[at(Number::GoodUpdates)] = if grows { 0.0 } else { good as f32 };
        }
    }
    numbers[at(Number::Factor)] = factor as f32;
    numbers[at(Number::Skip)] = f32::from(u8::from(skip));
    if skip {
        return None;
    }
    *updates += 1;
    let lr = numbers[at(Number::Rate)];
    if let UpdateRule::AdamW { betas, .. } = rule {
        let [correction1, correction2] = betas.map(|beta| 1.0 - beta.powf(*updates as f64));
        numbers[at(Number::Size)] = (f64::from(lr) / correction1) as f32;
        numbers[at(Number::Root)] = correction2.sqrt() as f32;
    }
    Some(Step {
        lr,
        ema_decay: numbers[at(Number::EmaDecay)],
        factor: factor as f32,
        size: numbers[at(Number::Size)],
        root: numbers[at(Number::Root)],
    })
}

/// One parameter's update.
pub struct Pass<'a> {
    /// How weights follow.
    pub rule: &'a UpdateRule,
    /// The update's numbers.
    pub step: Step,
    /// Weight decay.
    pub decay: f32,
    /// Round weights to this dtype.
    pub round: Option<DType>,
}

impl Pass<'_> {
    /// Updates weights and moments, then the average and the copy while the weights are near.
    pub fn run<H: Element>(
        &self,
        weights: &mut [f32],
        gradient: &[f32],
        mut moments: Vec<&mut [f32]>,
        ema: Option<&mut [f32]>,
        copy: Option<&mut [H]>,
    ) {
        let second = if moments.len() > 1 { moments.pop() } else { None };
        let first = moments.pop().expect("every rule has a moment");
        let absent = || std::iter::repeat_with(|| None);
        let seconds: Box<dyn Iterator<Item = Option<&mut [f32]>> + Send> = match second {
            Some(second) => Box::new(second.chunks_mut(PIECE).map(Some)),
            None => Box::new(absent()),
        };
        let emas: Box<dyn Iterator<Item = Option<&mut [f32]>> + Send> = match ema {
            Some(ema) => Box::new(ema.chunks_mut(PIECE).map(Some)),
            None => Box::new(absent()),
        };
        let copies: Box<dyn Iterator<Item = Option<&mut [H]>> + Send> = match copy {
            Some(copy) => Box::new(copy.chunks_mut(PIECE).map(Some)),
            None => Box::new(std::iter::repeat_with(|| None)),
        };
        let pieces: Vec<_> = weights
            .chunks_mut(PIECE)
            .zip(gradient.chunks(PIECE))
            .zip(first.chunks_mut(PIECE))
            .zip(seconds)
            .zip(emas.zip(copies))
            .collect();
        pieces.into_par_iter().for_each(|((((weights, gradient), first), second), (ema, copy))| {
            match *self.rule {
                UpdateRule::Sgd { momentum, nesterov } => {
                    self.sgd(momentum, nesterov, weights, gradient, first);
                }
                UpdateRule::AdamW { betas, eps } => {
                    self.adamw(betas, eps, weights, gradient, first, second.expect("two moments"));
                }
            }
            match self.round {
                Some(DType::F16) => weights.iter_mut().for_each(|p| *p = f16::from_f32(*p).to_f32()),
                Some(DType::BF16) => weights.iter_mut().for_each(|p| *p = bf16::from_f32(*p).to_f32()),
                _ => {}
            }
            if let Some(copy) = copy {
                copy.iter_mut().zip(weights.iter()).for_each(|(copy, p)| *copy = H::from_f64(f64::from(*p)));
            }
            if let Some(ema) = ema {
                let rest = 1.0 - self.step.ema_decay;
                for (average, p) in ema.iter_mut().zip(weights.iter()) {
                    *average = self.step.ema_decay * *average + rest * *p;
                }
            }
        });
    }

    fn sgd(&self, momentum: f32, nesterov: bool, weights: &mut [f32], gradient: &[f32], buffer: &mut [f32]) {
        let Step { lr, factor, .. } = self.step;
        for ((p, b), g) in weights.iter_mut().zip(buffer).zip(gradient) {
            let g = factor * g + self.decay * *p;
            *b = momentum * *b + g;
            *p -= lr * if nesterov { g + momentum * *b } else { *b };
        }
    }

    fn adamw(
        &self,
        betas: [f64; 2],
        eps: f32,
        weights: &mut [f32],
        gradient: &[f32],
        first: &mut [f32],
        second: &mut [f32],
    ) {
        let Step { lr, factor, size, root, .. } = self.step;
        let ([beta1, beta2], [rest1, rest2]) = (betas.map(|b| b as f32), betas.map(|b| (1.0 - b) as f32));
        let keep = (1.0 - f64::from(lr) * f64::from(self.decay)) as f32;
        for (((p, m), v), g) in weights.iter_mut().zip(first).zip(second).zip(gradient) {
            let g = factor * g;
            *m = beta1 * *m + rest1 * g;
            *v = beta2 * *v + rest2 * g * g;
            *p = *p * keep - size * *m / (v.sqrt() / root + eps);
        }
    }
}
