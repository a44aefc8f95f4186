//! Settings without an effect are refused: whoever gave them expected one.
use crate::schedule::Sched;
use crate::settings::Settings;
use crate::{Error, Result};

/// What decides whether settings have an effect.
pub(super) struct Facts<'a> {
    pub given: &'a Settings,
    pub sched: Sched,
    /// Epochs of warm-up.
    pub warmup: u32,
}

/// Settings that have no effect under a condition, why, and what to do.
struct Rule {
    settings: &'static [&'static str],
    when: fn(&Facts) -> bool,
    why: &'static str,
    remedy: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        settings: &["pretrained_path"],
        when: |f| f.given.initial_checkpoint.is_some() || f.given.pretrained == Some(false),
        why: "--initial-checkpoint or --no-pretrained is given",
        remedy: "give one of them",
    },
    Rule {
        settings: &["pretrained"],
        when: |f| f.given.initial_checkpoint.is_some(),
        why: "--initial-checkpoint replaces all weights",
        remedy: "give one of the two",
    },
    Rule {
        settings: &["lr_base"],
        when: |f| f.given.lr.is_some(),
        why: "--lr is given",
        remedy: "give one of the two",
    },
    Rule {
        settings: &["lr_base_size", "lr_base_scale"],
        when: |f| f.given.lr_base.is_none(),
        why: "--lr-base is not given",
        remedy: "give --lr-base too",
    },
    Rule {
        settings: &["clip_mode"],
        when: |f| f.given.clip_grad.is_none(),
        why: "--clip-grad is not given",
        remedy: "give --clip-grad too",
    },
    Rule {
        settings: &["layer_decay_min_scale", "layer_decay_no_opt_scale"],
        when: |f| f.given.layer_decay.is_none(),
        why: "--layer-decay is not given",
        remedy: "give --layer-decay too",
    },
    Rule {
        settings: &["cooldown_epochs"],
        when: |f| !f.sched.uses("cooldown_epochs"),
        why: "the schedule does not end at --min-lr",
        remedy: "raise --epochs, or use --sched cosine",
    },
    Rule {
        settings: &["warmup_lr", "warmup_prefix"],
        when: |f| f.warmup == 0,
        why: "there is no warm-up",
        remedy: "give --warmup-epochs too",
    },
    Rule {
        settings: &["lr_cycle_mul", "lr_cycle_decay"],
        when: |f| f.sched.uses("lr_cycle_mul") && f.given.lr_cycle_limit.unwrap_or(1) == 1,
        why: "there is one cycle",
        remedy: "give --lr-cycle-limit too",
    },
    Rule {
        settings: &["lr_noise_pct", "lr_noise_std"],
        when: |f| f.given.lr_noise.is_none(),
        why: "there is no noise",
        remedy: "give --lr-noise too",
    },
    Rule {
        settings: &["bce_sum", "bce_target_thresh", "bce_pos_weight"],
        when: |f| f.given.bce_loss != Some(true),
        why: "the loss is not binary cross entropy",
        remedy: "give --bce-loss too",
    },
    Rule {
        settings: &["model_ema_decay", "model_ema_warmup", "model_ema_force_cpu"],
        when: |f| f.given.model_ema != Some(true),
        why: "there is no average of the model",
        remedy: "give --model-ema too",
    },
    Rule {
        settings: &["jsd_loss"],
        when: |_| true,
        why: "it compares augmentations of the same images, and there are no augmentation splits yet",
        remedy: "leave it out; fornax::nn::loss::JsdCrossEntropy is there for programs of one's own",
    },
];

/// Errors on the first setting that has none.
pub(super) fn refuse_what_has_none(facts: &Facts) -> Result<()> {
    let mut given = facts.given.given();
    // A switch that is off asks for nothing.
    given.retain(|_, value| value != false);
    for rule in RULES.iter().filter(|rule| (rule.when)(facts)) {
        if let Some(setting) = rule.settings.iter().find(|setting| given.contains_key(**setting)) {
            return Err(none(setting).because(rule.why).remedy(rule.remedy));
        }
    }
    match given.keys().find(|setting| !facts.sched.uses(setting)) {
        None => Ok(()),
        Some(setting) => {
            let others = Sched::users_of(setting);
            Err(none(setting)
                .because(format!("the schedule {} does not have it", facts.sched.name()))
                .remedy(format!("leave it out, or choose another --sched: {}", others.join(", "))))
        }
    }
}

fn none(setting: &str) -> Error {
    Error::usage(format!("--{} would have no effect", setting.replace('_', "-")))
}
