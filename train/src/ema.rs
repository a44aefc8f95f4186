//! The exponential moving average of a model: what is often better than the model that it follows.
//!
//! After every update `average = d * average + (1 - d) * model`, over parameters and the running statistics of batch norm; counters
//! are copied. The decay `d` is that of timm's `ModelEmaV3`: the first update copies the model; with a warm-up `d` then rises from 0 to
//! its value; a run of few updates should have it, or a lower decay.
//!
//! With an average, epochs are judged by it, as in timm: `eval_top1` and its like, and which checkpoint is the best. Where it is kept on
//! the CPU while the model trains elsewhere, it is not evaluated.
use crate::{Error, Result};
use fornax_engine::fuse::{Formula, NextState, OptimizerStateSpec};
use fornax_engine::{Device, GradientRule, Tensor, UpdateOperands, UpdateRule, UpdateState, update};
use fornax_nn::{Module, StateEntry, move_to, state_entries};

/// How fast an average follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmaOptions {
    /// What stays of the average in an update.
    pub decay: f64,
    /// The decay rises from 0 to its value.
    pub warmup: Option<EmaWarmup>,
    /// Updates before that the model is copied.
    pub update_after_step: u64,
    /// Counters are averaged too, and rounded towards 0, as timm's `ModelEmaV2` does: that of batches lags behind or stays at 0.
    pub average_integer_buffers: bool,
}

/// A decay of `1 - (1 + updates / gamma)^-power`, within bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmaWarmup {
    /// Above 1 the decay rises more slowly.
    pub gamma: f64,
    /// Above 2/3 the decay rises more quickly.
    pub power: f64,
    /// The least decay.
    pub min_decay: f64,
}

impl Default for EmaOptions {
    /// timm's: 0.9998 without a warm-up.
    fn default() -> EmaOptions {
        EmaOptions { decay: 0.9998, warmup: None, update_after_step: 0, average_integer_buffers: false }
    }
}

impl Default for EmaWarmup {
    fn default() -> EmaWarmup {
        EmaWarmup { gamma: 1.0, power: 2.0 / 3.0, min_decay: 0.0 }
    }
}

impl EmaOptions {
    /// timm's `ModelEmaV2`, which has no warm-up and whose updates are not numbered: [`Ema::set_decay`] with the decay itself.
    pub fn v2(decay: f64) -> EmaOptions {
        EmaOptions { decay, average_integer_buffers: true, ..EmaOptions::default() }
    }

    /// The decay of an update, counted from 1.
    pub fn decay_at(&self, update: u64) -> f64 {
        let since = update.saturating_sub(self.update_after_step + 1);
        match self.warmup {
            _ if since == 0 => 0.0,
            None => self.decay,
            Some(EmaWarmup { gamma, power, min_decay }) => {
                (1.0 - (1.0 + since as f64 / gamma).powf(-power)).min(self.decay).max(min_decay)
            }
        }
    }
}

/// A model that follows another one.
pub struct Ema {
    options: EmaOptions,
    average: Box<dyn Module>,
    device: Device,
    /// Averages of floats.
    averaged: Vec<Pair>,
    /// Averages of whole numbers, which are on the CPU.
    counters: Vec<Pair>,
    /// An average goes to the model as weights follow a gradient, at a rate of `1 - d`.
    rule: UpdateRule,
    /// Holds the rate where the averages are: a recorded update reads it there.
    state: UpdateState,
    /// Of the next step, or the last.
    decay: f64,
}

struct Pair {
    average: Tensor,
    model: Tensor,
}

impl Ema {
    /// An average that starts as a copy of `model`, kept in `average`, a model of the same kind, on a device.
    pub fn new(
        model: &dyn Module,
        average: Box<dyn Module>,
        options: EmaOptions,
        device: Device,
    ) -> Result<Ema> {
        move_to(&*average, &device)?;
        let (of_model, of_average) = (state_entries(model), state_entries(&*average));
        let alike = |a: &StateEntry, b: &StateEntry| a.name == b.name && a.tensor.shape() == b.tensor.shape();
        if of_model.len() != of_average.len() || !of_model.iter().zip(&of_average).all(|(a, b)| alike(a, b)) {
            return Err(Error::usage("a model is averaged in another of its kind only"));
        }
        let pair = |(model, average): (StateEntry, StateEntry)| Pair {
            average: average.tensor,
            model: model.tensor.detach(),
        };
        let pairs: Vec<Pair> = of_model.into_iter().zip(of_average).map(pair).collect();
        pairs.iter().try_for_each(|pair| pair.average.copy_from(&pair.model))?;
        let (averaged, counters) = pairs.into_iter().partition(|pair| pair.model.dtype().is_float());
        let rule = UpdateRule::new("average", OptimizerStateSpec::default(), |f: &Formula| NextState {
            weight: (1.0 - f.lr()) * f.weight() + f.lr() * f.gradient(),
            moments: vec![],
            shared_scalars: vec![],
            param_scalar: None,
        });
        let state = UpdateState::new(GradientRule::default(), &rule, &device)?;
        Ok(Ema { options, average, device, averaged, counters, rule, state, decay: options.decay })
    }

    /// How fast it follows.
    pub fn options(&self) -> &EmaOptions {
        &self.options
    }

    /// The averaged model.
    pub fn model(&self) -> &dyn Module {
        &*self.average
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Sets the decay of the next step. Not to be recorded: it is what changes between replays.
    pub fn set_decay(&mut self, decay: f64) -> Result<()> {
        self.decay = decay;
        Ok(self.state.set_lr(1.0 - decay, 0.0)?)
    }

    /// Follows the model by one step, but for counters: one pass over all. On the model's device it can be recorded.
    pub fn update(&self) -> fornax_engine::Result<()> {
        let models: Vec<Tensor> = self
            .averaged
            .iter()
            .map(|pair| pair.model.to_device(&self.device))
            .collect::<fornax_engine::Result<_>>()?;
        let pairs = self.averaged.iter().zip(&models);
        let all: Vec<UpdateOperands> =
            pairs.map(|(pair, model)| UpdateOperands::new(&pair.average, model)).collect();
        update(&self.rule, &all, &self.state)
    }

    /// What a step leaves to the host: counters follow, and half copies of averages that a replayed step changed are out of date.
    pub fn finish_update(&self) -> Result<()> {
        self.averaged.iter().for_each(|pair| pair.average.bump_version());
        for Pair { average, model } in &self.counters {
            if !self.options.average_integer_buffers {
                average.copy_from(model)?;
                continue;
            }
            let (keep, rest) = (self.decay as f32, (1.0 - self.decay) as f32);
            let model = model.to_vec::<i64>()?;
            for (a, m) in average.write::<i64>()?.iter_mut().zip(model) {
                *a = (keep * *a as f32 + rest * m as f32) as i64;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decay_rises_and_is_bounded() {
        let plain = EmaOptions { decay: 0.9, ..EmaOptions::default() };
        assert_eq!([1, 2, 3].map(|u| plain.decay_at(u)), [0.0, 0.9, 0.9]);
        let late = EmaOptions { update_after_step: 2, ..plain };
        assert_eq!([1, 2, 3, 4].map(|u| late.decay_at(u)), [0.0, 0.0, 0.0, 0.9]);
        let warm = EmaOptions { warmup: Some(EmaWarmup::default()), ..plain };
        let decays: Vec<f64> = (1..200).map(|u| warm.decay_at(u)).collect();
        assert!(decays.is_sorted() && decays[1] < 0.4 && decays[198] == 0.9);
        let least = EmaWarmup { min_decay: 0.5, ..EmaWarmup::default() };
        assert_eq!(EmaOptions { warmup: Some(least), ..plain }.decay_at(2), 0.5);
    }
}
