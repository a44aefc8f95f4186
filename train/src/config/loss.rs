//! Loss function of a run: its settings, and the loss built from them.
use crate::settings::Settings;
use fornax_nn::loss::{BinaryCrossEntropy, CrossEntropy, Loss};
use std::sync::Arc;

/// Resolved settings of the loss, without settings that have no effect.
pub(super) fn resolved(given: &Settings, smoothing: f64) -> Settings {
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
pub(super) fn name(resolved: &Settings) -> String {
    let name = if resolved.bce_loss == Some(true) { "binary cross entropy" } else { "cross entropy" };
    match resolved.smoothing {
        Some(smoothing) if smoothing > 0.0 => format!("{name}, smoothing {smoothing}"),
        _ => name.into(),
    }
}

/// Builds the loss from resolved settings.
pub(super) fn loss(resolved: &Settings) -> Arc<dyn Loss> {
    let smoothing = resolved.smoothing.unwrap_or(0.0);
    match resolved.bce_loss {
        Some(true) => Arc::new(BinaryCrossEntropy {
            smoothing,
            target_threshold: resolved.bce_target_thresh,
            sum_classes: resolved.bce_sum == Some(true),
            pos_weight: resolved.bce_pos_weight,
        }),
        _ => Arc::new(CrossEntropy { smoothing }),
    }
}
