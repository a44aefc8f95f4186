//! Loss function of a run: its settings, and the loss built from them.
use crate::settings::Settings;
use fornax_nn::loss::{BinaryCrossEntropy, CrossEntropy, JsdCrossEntropy, Loss};
use std::sync::Arc;

/// Weight of the Jensen-Shannon divergence, as in timm.
const JSD_ALPHA: f64 = 12.0;

/// Resolved settings of the loss, without settings that have no effect.
pub(super) fn resolved(given: &Settings, smoothing: f64) -> Settings {
    let binary = given.bce_loss.unwrap_or(false);
    Settings {
        smoothing: Some(given.smoothing.unwrap_or(smoothing)),
        bce_loss: Some(binary),
        bce_sum: binary.then_some(given.bce_sum.unwrap_or(false)),
        bce_target_thresh: given.bce_target_thresh,
        bce_pos_weight: binary.then_some(given.bce_pos_weight.unwrap_or(1.0)),
        jsd_loss: given.jsd_loss,
        ..Settings::default()
    }
}

/// Name of the training loss and its label smoothing, for titles and legends.
pub(super) fn name(resolved: &Settings) -> String {
    let name = match (resolved.jsd_loss, resolved.bce_loss) {
        (Some(true), _) => "cross entropy and Jensen-Shannon divergence",
        (_, Some(true)) => "binary cross entropy",
        _ => "cross entropy",
    };
    match resolved.smoothing {
        Some(smoothing) if smoothing > 0.0 => format!("{name}, smoothing {smoothing}"),
        _ => name.into(),
    }
}

/// Builds the loss from resolved settings. With mixup or CutMix, the targets are smoothed where they are mixed.
pub(super) fn loss(given: &Settings, resolved: &Settings) -> Arc<dyn Loss> {
    let smoothing = if given.is_mixing() { 0.0 } else { resolved.smoothing.unwrap_or(0.0) };
    match (resolved.jsd_loss, resolved.bce_loss) {
        (Some(true), _) => Arc::new(JsdCrossEntropy {
            num_splits: given.aug_splits.unwrap_or(0) as usize,
            alpha: JSD_ALPHA,
            smoothing,
        }),
        (_, Some(true)) => Arc::new(BinaryCrossEntropy {
            smoothing,
            target_threshold: resolved.bce_target_thresh,
            sum_classes: resolved.bce_sum == Some(true),
            pos_weight: resolved.bce_pos_weight,
        }),
        _ => Arc::new(CrossEntropy { smoothing }),
    }
}
