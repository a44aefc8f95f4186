//! The loss of a run: its settings, and what they make.
use crate::settings::Settings;
use fornax_nn::loss::{BinaryCrossEntropy, CrossEntropy, Loss};
use std::sync::Arc;

/// The settings of the loss that have an effect.
pub(super) fn settled(given: &Settings, smoothing: f64) -> Settings {
    let binary = given.bce_loss.unwrap_or(false);
    Settings {
        smoothing: Some(given.smoothing.unwrap_or(smoothing)),
        bce_loss: Some(binary),
        bce_sum: binary.then_some(given.bce_sum.unwrap_or(false)),
        bce_target_thresh: given.bce_target_thresh,
        bce_pos_weight: binary.then_some(given.bce_pos_weight.unwrap_or(1.0)),
        ..Settings::default()
    }
}

/// Name of the training loss and its label smoothing, for titles and legends.
pub(super) fn name(settled: &Settings) -> String {
    let name = if settled.bce_loss == Some(true) { "binary cross entropy" } else { "cross entropy" };
    match settled.smoothing {
        Some(smoothing) if smoothing > 0.0 => format!("{name}, smoothing {smoothing}"),
        _ => name.into(),
    }
}

/// The loss that settled settings name.
pub(super) fn loss(settled: &Settings) -> Arc<dyn Loss> {
    let smoothing = settled.smoothing.unwrap_or(0.0);
    match settled.bce_loss {
        Some(true) => Arc::new(BinaryCrossEntropy {
            smoothing,
            target_threshold: settled.bce_target_thresh,
            sum_classes: settled.bce_sum == Some(true),
            pos_weight: settled.bce_pos_weight,
        }),
        _ => Arc::new(CrossEntropy { smoothing }),
    }
}
