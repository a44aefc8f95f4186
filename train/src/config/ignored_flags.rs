//! Rejection of settings that would be ignored.
use crate::schedule::Sched;
use crate::settings::Settings;
use crate::{Error, Result};

/// Values that decide whether a setting has an effect.
pub(super) struct FlagContext<'a> {
    pub given: &'a Settings,
    pub sched: Sched,
    /// Warmup epochs.
    pub warmup_epochs: u32,
}

/// Settings that are ignored under a condition, with reason and remedy.
struct IgnoreRule {
    settings: &'static [&'static str],
    when: fn(&FlagContext) -> bool,
    why: &'static str,
    remedy: &'static str,
}

const RULES: &[IgnoreRule] = &[
    IgnoreRule {
        settings: &["pretrained_path"],
        when: |f| f.given.initial_checkpoint.is_some() || f.given.pretrained == Some(false),
        why: "--initial-checkpoint or --no-pretrained is given",
        remedy: "give one of them",
    },
    IgnoreRule {
        settings: &["pretrained"],
        when: |f| f.given.initial_checkpoint.is_some(),
        why: "--initial-checkpoint replaces all weights",
        remedy: "give one of the two",
    },
    IgnoreRule {
        settings: &["lr_base"],
        when: |f| f.given.lr.is_some(),
        why: "--lr is given",
        remedy: "give one of the two",
    },
    IgnoreRule {
        settings: &["lr_base_size", "lr_base_scale"],
        when: |f| f.given.lr_base.is_none(),
        why: "--lr-base is not given",
        remedy: "give --lr-base too",
    },
    IgnoreRule {
        settings: &["clip_mode"],
        when: |f| f.given.clip_grad.is_none(),
        why: "--clip-grad is not given",
        remedy: "give --clip-grad too",
    },
    IgnoreRule {
        settings: &["layer_decay_min_scale", "layer_decay_no_opt_scale"],
        when: |f| f.given.layer_decay.is_none(),
        why: "--layer-decay is not given",
        remedy: "give --layer-decay too",
    },
    IgnoreRule {
        settings: &["cooldown_epochs"],
        when: |f| !f.sched.uses("cooldown_epochs"),
        why: "the schedule does not end at --min-lr",
        remedy: "raise --epochs, or use --sched cosine",
    },
    IgnoreRule {
        settings: &["warmup_lr", "warmup_prefix"],
        when: |f| f.warmup_epochs == 0,
        why: "there is no warmup",
        remedy: "give --warmup-epochs too",
    },
    IgnoreRule {
        settings: &["lr_cycle_mul", "lr_cycle_decay"],
        when: |f| f.sched.uses("lr_cycle_mul") && f.given.lr_cycle_limit.unwrap_or(1) == 1,
        why: "there is one cycle",
        remedy: "give --lr-cycle-limit too",
    },
    IgnoreRule {
        settings: &["lr_noise_pct", "lr_noise_std"],
        when: |f| f.given.lr_noise.is_none(),
        why: "there is no noise",
        remedy: "give --lr-noise too",
    },
    IgnoreRule {
        settings: &["bce_sum", "bce_target_thresh", "bce_pos_weight"],
        when: |f| f.given.bce_loss != Some(true),
        why: "the loss is not binary cross entropy",
        remedy: "give --bce-loss too",
    },
    IgnoreRule {
        settings: &["model_ema_decay", "model_ema_warmup", "model_ema_force_cpu"],
        when: |f| f.given.model_ema != Some(true),
        why: "there is no EMA",
        remedy: "give --model-ema too",
    },
    IgnoreRule {
        settings: &["jsd_loss"],
        when: |_| true,
        why: "it needs several augmentations of each image, and there are no augmentation splits yet",
        remedy: "leave it out; a program can use fornax::nn::loss::JsdCrossEntropy",
    },
];

/// Errors on the first setting that would be ignored.
pub(super) fn reject_ignored_flags(context: &FlagContext) -> Result<()> {
    let mut given = context.given.given();
    // A switch that is off requests nothing.
    given.retain(|_, value| value != false);
    for rule in RULES.iter().filter(|rule| (rule.when)(context)) {
        if let Some(setting) = rule.settings.iter().find(|setting| given.contains_key(**setting)) {
            return Err(no_effect(setting).because(rule.why).remedy(rule.remedy));
        }
    }
    match given.keys().find(|setting| !context.sched.uses(setting)) {
        None => Ok(()),
        Some(setting) => {
            let others = Sched::users_of(setting);
            Err(no_effect(setting)
                .because(format!("the schedule {} does not use it", context.sched.name()))
                .remedy(format!("leave it out, or choose another --sched: {}", others.join(", "))))
        }
    }
}

fn no_effect(setting: &str) -> Error {
    Error::usage(format!("--{} would have no effect", setting.replace('_', "-")))
}
