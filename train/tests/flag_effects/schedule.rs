//! Cases of the schedule's flags.
use crate::case::{Case, assert_effects, changes};
use crate::observation::Aspect::{self, *};

/// Other learning rates in equally many updates.
const LRS: &[Aspect] = &[LearningRates, Weights];
/// The learning rates from the first update on.
const EPOCHS: &[Aspect] = &[Plan, TrainingBatches, Updates, LearningRates, Weights];

pub const CASES: &[Case] = &[
    changes("epochs", "", "--epochs 3", EPOCHS),
    changes("sched", "", "--sched step", LRS),
    changes("sched_on_updates", "", "--sched-on-updates=false", LRS),
    changes("warmup_epochs", "", "--warmup-epochs 1", LRS),
    changes("warmup_lr", "--warmup-epochs 1", "--warmup-lr 0.02", LRS),
    changes("warmup_prefix", "--warmup-epochs 1", "--warmup-prefix", EPOCHS),
    changes("min_lr", "", "--min-lr 0.01", LRS),
    changes("cooldown_epochs", "--min-lr 0.01", "--cooldown-epochs 1", EPOCHS),
    changes("decay_epochs", "--sched step", "--decay-epochs 0.5", LRS),
    changes("decay_milestones", "--sched multistep --epochs 3", "--decay-milestones 2", LRS),
    changes("decay_rate", "--sched step", "--decay-rate 0.5", LRS),
    // The accuracy stays, as the model hardly changes.
    changes(
        "patience_epochs",
        "--sched plateau --lr 1e-5 --bn-momentum 1e-9 --epochs 4",
        "--patience-epochs 0",
        LRS,
    ),
    changes("lr_lambda", "--sched lambda --lr-lambda 1", "--lr-lambda 0.5**epoch", LRS),
    changes("lr_decay_fn", "--sched wsd --decay-epochs 1", "--lr-decay-fn linear", LRS),
    changes("lr_stable_timescale", "--sched rsqrt --lr-stable-timescale 1", "--lr-stable-timescale 0.5", LRS),
    changes("lr_cycle_limit", "", "--lr-cycle-limit 2", EPOCHS),
    changes("lr_cycle_mul", "--lr-cycle-limit 2", "--lr-cycle-mul 2", EPOCHS),
    changes("lr_cycle_decay", "--lr-cycle-limit 2", "--lr-cycle-decay 0.2", LRS),
    changes("lr_k_decay", "", "--lr-k-decay 2", LRS),
    changes("lr_noise", "", "--lr-noise 0.5", LRS),
    changes("lr_noise_pct", "--lr-noise 0", "--lr-noise-pct 0.1", LRS),
    changes("lr_noise_std", "--lr-noise 0", "--lr-noise-std 0.1", LRS),
];

#[test]
fn schedule_flags_have_their_effects() {
    assert_effects(CASES);
}
