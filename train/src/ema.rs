//! Exponential moving average (EMA) of a model's weights.
//!
//! After every update `ema = d * ema + (1 - d) * weight`, over parameters and the running statistics of batch norm; integer buffers
//! are copied. The decay `d` follows timm's `ModelEmaV3`: the first update copies the model; with a warmup `d` then rises from 0 to
//! its value. A run of few updates needs the warmup or a lower decay.
//!
//! As in timm, the EMA weights replace the model's own in validation: `eval_top1` and the other metrics, and the choice of the best
//! checkpoint. EMA weights kept on the CPU while the model trains on another device are not evaluated.
use crate::optim::Optimizer;
use crate::{Error, Result};
use fornax_engine::fuse::{Formula, NextState, OptimizerStateSpec};
use fornax_engine::{Device, GradientRule, Tensor, UpdateOperands, UpdateRule, UpdateState, update};
use fornax_nn::{Module, StateEntry, move_to, state_entries};
use std::collections::{HashMap, HashSet};

/// Decay of an exponential moving average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmaOptions {
    /// Decay per update.
    pub decay: f64,
    /// Warmup of the decay from 0; `None` for a constant decay.
    pub warmup: Option<EmaWarmup>,
    /// Number of updates, after the first, that copy the model (timm's `update_after_step`).
    pub update_after_step: u64,
    /// Averages integer buffers too, rounding towards 0, as timm's `ModelEmaV2` does: `num_batches_tracked` then lags behind or stays at 0.
    pub average_integer_buffers: bool,
}

/// Decay warmup: `1 - (1 + updates / gamma)^-power`, between `min_decay` and the decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmaWarmup {
    /// Inverse rate; larger values raise the decay more slowly.
    pub gamma: f64,
    /// Exponent; larger values raise the decay faster. 2/3 suits runs of a million updates and more.
    pub power: f64,
    /// Minimum decay.
    pub min_decay: f64,
}

impl Default for EmaOptions {
    /// timm's defaults: 0.9998 without a warmup.
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
    /// Options of timm's `ModelEmaV2`, which has neither warmup nor update numbers: call [`Ema::set_decay`] with the decay itself.
    pub fn v2(decay: f64) -> EmaOptions {
        EmaOptions { decay, average_integer_buffers: true, ..EmaOptions::default() }
    }

    /// The decay of update `update`, counted from 1.
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

impl EmaOptions {
    /// Fraction of the weights after the first update in the EMA after `updates` updates: the product of all later decays.
    pub fn initial_fraction(&self, updates: u64) -> f64 {
        let first = self.update_after_step + 2;
        match self.warmup {
            None => self.decay.powf(updates.saturating_sub(first - 1) as f64),
            // The product falls quickly, so that the rest makes no difference.
            Some(_) => (first..=updates).take(100_000).map(|update| self.decay_at(update)).product(),
        }
    }
}

/// Exponential moving average of a model, in a second model of the same architecture.
pub struct Ema {
    options: EmaOptions,
    ema_model: Box<dyn Module>,
    device: Device,
    /// Float parameters and buffers.
    float_pairs: Vec<Pair>,
    /// Integer buffers, on the CPU.
    integer_pairs: Vec<Pair>,
    /// The EMA as an update rule: learning rate `1 - d`, with the model's weights in place of gradients.
    rule: UpdateRule,
    /// Holds `1 - d` in device memory, where a captured update reads it.
    state: UpdateState,
    /// Decay of the next update, or of the last.
    decay: f64,
}

struct Pair {
    name: String,
    ema: Tensor,
    model: Tensor,
}

impl Ema {
    /// Creates an EMA of `model` that starts as a copy of it and is stored in `ema_model`, a model of the same architecture, on `device`.
    /// Errors if names or shapes of their tensors differ.
    pub fn new(
        model: &dyn Module,
        ema_model: Box<dyn Module>,
        options: EmaOptions,
        device: Device,
    ) -> Result<Ema> {
        move_to(&*ema_model, &device)?;
        let (model_entries, ema_entries) = (state_entries(model), state_entries(&*ema_model));
        let matches =
            |a: &StateEntry, b: &StateEntry| a.name == b.name && a.tensor.shape() == b.tensor.shape();
        if model_entries.len() != ema_entries.len()
            || !model_entries.iter().zip(&ema_entries).all(|(a, b)| matches(a, b))
        {
            return Err(Error::usage("the EMA model has other tensors than the model"));
        }
        let pair = |(model, ema): (StateEntry, StateEntry)| Pair {
            name: model.name,
            ema: ema.tensor,
            model: model.tensor.detach(),
        };
        let pairs: Vec<Pair> = model_entries.into_iter().zip(ema_entries).map(pair).collect();
        pairs.iter().try_for_each(|pair| pair.ema.copy_from(&pair.model))?;
        let (float_pairs, integer_pairs) = pairs.into_iter().partition(|pair| pair.model.dtype().is_float());
        let rule = UpdateRule::new("ema", OptimizerStateSpec::default(), |f: &Formula| NextState {
            weight: (1.0 - f.lr()) * f.weight() + f.lr() * f.gradient(),
            moments: vec![],
            shared_scalars: vec![],
            param_scalar: None,
        });
        let state = UpdateState::new(GradientRule::default(), &rule, &device)?;
        Ok(Ema { options, ema_model, device, float_pairs, integer_pairs, rule, state, decay: options.decay })
    }

    /// The decay options.
    pub fn options(&self) -> &EmaOptions {
        &self.options
    }

    /// The model with the EMA weights.
    pub fn model(&self) -> &dyn Module {
        &*self.ema_model
    }

    /// Decay of the next update, or of the last.
    pub fn decay(&self) -> f64 {
        self.decay
    }

    /// Device of the EMA weights.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Sets the decay of the next update. Must not be captured: the decay changes between replays.
    pub fn set_decay(&mut self, decay: f64) -> Result<()> {
        self.decay = decay;
        Ok(self.state.set_lr(1.0 - decay, 0.0)?)
    }

    /// Updates the float tensors in one pass. On the model's device it can be captured in a CUDA graph.
    pub fn update(&self) -> fornax_engine::Result<()> {
        self.update_pairs(self.float_pairs.iter())
    }

    /// Runs the optimizer's update, whose pass also averages the parameters that it updates, and averages the other float tensors in a
    /// pass of their own. The results are those of [`Optimizer::step`] and [`Ema::update`]. Model and EMA are on one device, and the
    /// optimizer has the decay ([`Optimizer::set_lr_and_ema_decay`]).
    pub(crate) fn step_and_update(&self, optimizer: &Optimizer) -> fornax_engine::Result<()> {
        let by_name: HashMap<&str, &Tensor> =
            self.float_pairs.iter().map(|pair| (&*pair.name, &pair.ema)).collect();
        let averaged = optimizer.step_with_ema(|name| by_name.get(name).copied())?;
        let averaged: HashSet<&str> = averaged.into_iter().collect();
        self.update_pairs(self.float_pairs.iter().filter(|pair| !averaged.contains(&*pair.name)))
    }

    fn update_pairs<'a>(&self, pairs: impl Iterator<Item = &'a Pair>) -> fornax_engine::Result<()> {
        let on_device = |pair: &'a Pair| Ok((&pair.ema, pair.model.to_device(&self.device)?));
        let pairs: Vec<(&Tensor, Tensor)> = pairs.map(on_device).collect::<fornax_engine::Result<_>>()?;
        let all: Vec<UpdateOperands> =
            pairs.iter().map(|(ema, model)| UpdateOperands::new(ema, model)).collect();
        update(&self.rule, &all, &self.state)
    }

    /// Finishes an update on the host: updates integer buffers, and invalidates low-precision copies of tensors that a replay changed.
    pub fn finish_update(&self) -> Result<()> {
        self.float_pairs.iter().for_each(|pair| pair.ema.bump_version());
        for Pair { ema, model, .. } in &self.integer_pairs {
            if !self.options.average_integer_buffers {
                ema.copy_from(model)?;
                continue;
            }
            let (decay, rest) = (self.decay as f32, (1.0 - self.decay) as f32);
            let model = model.to_vec::<i64>()?;
            for (a, m) in ema.write::<i64>()?.iter_mut().zip(model) {
                *a = (decay * *a as f32 + rest * m as f32) as i64;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decay_warms_up_within_bounds() {
        let plain = EmaOptions { decay: 0.9, ..EmaOptions::default() };
        assert_eq!([1, 2, 3].map(|u| plain.decay_at(u)), [0.0, 0.9, 0.9]);
        let late = EmaOptions { update_after_step: 2, ..plain };
        assert_eq!([1, 2, 3, 4].map(|u| late.decay_at(u)), [0.0, 0.0, 0.0, 0.9]);
        let warm = EmaOptions { warmup: Some(EmaWarmup::default()), ..plain };
        let decays: Vec<f64> = (1..200).map(|u| warm.decay_at(u)).collect();
        assert!(decays.is_sorted() && decays[1] < 0.4 && decays[198] == 0.9);
        let bounded = EmaWarmup { min_decay: 0.5, ..EmaWarmup::default() };
        assert_eq!(EmaOptions { warmup: Some(bounded), ..plain }.decay_at(2), 0.5);
    }

    #[test]
    fn initial_fraction_is_the_product_of_decays() {
        let plain = EmaOptions { decay: 0.9, ..EmaOptions::default() };
        let by_product = |options: EmaOptions, updates: u64| {
            (2..=updates).map(|update| options.decay_at(update)).product::<f64>()
        };
        assert!((plain.initial_fraction(5) - by_product(plain, 5)).abs() < 1e-12);
        assert_eq!((plain.initial_fraction(0), plain.initial_fraction(1)), (1.0, 1.0));
        let warm = EmaOptions { warmup: Some(EmaWarmup::default()), ..plain };
        assert!((warm.initial_fraction(9) - by_product(warm, 9)).abs() < 1e-12);
        assert!(warm.initial_fraction(9) < 0.05);
    }
}
