//! Options of timm's `train.py` without a setting of their own: ignored because they change nothing, or rejected with the alternative.
use serde_json::Value;

/// Option of timm without a setting.
#[derive(Debug)]
pub struct TimmOption {
    /// Name, with underscores.
    pub name: &'static str,
    /// Number of values on the command line.
    pub values: TimmValues,
    /// Defaults of timm besides null, false and empty values.
    pub defaults: &'static [&'static str],
    /// Fornax's answer to other values.
    pub answer: TimmAnswer,
}

/// Number of values of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimmValues {
    /// A switch.
    Switch,
    /// One value.
    One,
    /// One value or none.
    Optional,
    /// Any number of values.
    Many,
}

/// Answer to an option of timm that differs from its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimmAnswer {
    /// Ignored with a warning, for this reason: it changes nothing.
    Ignored(&'static str),
    /// Rejected, for a reason and with a remedy: its result cannot be given.
    Rejected(&'static str, &'static str),
}

use TimmAnswer::{Ignored, Rejected};
use TimmValues::{Many, One, Optional, Switch};

const SIZES: (&str, &str) =
    ("the input size is fixed during a run", "train in stages: --initial-checkpoint with another --img-size");
const ONE_SIZE: &str = "the input size is fixed during a run";
const NAFLEX: &str = "there is no NaFlex model";
const NO_DISTILLATION: &str = "without --kd-model-name nothing is distilled";
const NO_WANDB: &str = "nothing is sent to W&B";
const COMPILER: &str = "kernels are compiled and fused already";

macro_rules! timm_options {
    ($($name:ident: $values:ident $([$($default:literal)*])?, $answer:expr;)*) => {
        /// Every option of timm's `train.py`, of today and of older versions, without a setting.
        pub const TIMM_OPTIONS: &[TimmOption] = &[$(TimmOption {
            name: stringify!($name),
            values: $values,
            defaults: &[$($($default),*)?],
            answer: $answer,
        }),*];
    };
}

timm_options! {
    channels_last: Switch, Ignored("channels-last is the only memory layout");
    pin_mem: Switch, Ignored("batches go to a CUDA device through pinned memory");
    use_multi_epochs_loader: Switch, Ignored("loader threads stay alive between epochs");
    worker_seeding: One ["all"], Ignored("random numbers depend on seed, epoch and image, not on the worker");
    no_ddp_bb: Switch, Ignored("running statistics are distributed by --dist-bn only");
    fast_norm: Switch, Ignored("AMP computes layer norm in f32");
    synchronize_step: Switch, Ignored("results do not depend on it");
    amp_impl: One ["native"], Ignored("there is one implementation of AMP");
    aot_autograd: Switch, Ignored(COMPILER);
    reparam: Switch, Ignored("no model has branches to merge");
    validation_batch_size_multiplier: One ["1"], Ignored("--validation-batch-size replaces it");
    dataset_download: Switch, Ignored("training downloads nothing, `fornax datasets download` does");
    dataset_trust_remote_code: Switch, Ignored("datasets contain no code");
    fuser: One, Ignored(COMPILER);
    torchscript: Switch, Ignored(COMPILER);
    torchcompile: Optional, Ignored(COMPILER);
    torchcompile_mode: One, Ignored(COMPILER);
    device_modules: Many, Rejected("Fornax runs no Python", "omit it; add modules of your own with the library");
    log_wandb: Switch, Rejected(NO_WANDB, "omit it, and import metrics.jsonl or summary.csv of the run's folder");
    wandb_project: One, Ignored(NO_WANDB);
    wandb_tags: Many, Ignored(NO_WANDB);
    wandb_resume_id: One, Ignored(NO_WANDB);
    train_img_sizes: Many, Rejected(SIZES.0, SIZES.1);
    train_batch_sizes: Many, Rejected(SIZES.0, SIZES.1);
    train_size_probs: Many, Ignored(ONE_SIZE);
    train_size_schedule: One ["constant"], Ignored(ONE_SIZE);
    train_size_schedule_spread: One ["0.65"], Ignored(ONE_SIZE);
    train_size_random_mix: One ["0.1"], Ignored(ONE_SIZE);
    variable_batch_loss_scale: One ["none"], Ignored("every batch has --batch-size images");
    naflex_loader: Switch, Rejected(NAFLEX, "choose a ViT of `fornax models` and its input size with --img-size");
    naflex_train_seq_lens: Many ["128 256 576 784 1024"], Ignored(NAFLEX);
    naflex_max_seq_len: One ["576"], Ignored(NAFLEX);
    naflex_patch_sizes: Many, Ignored(NAFLEX);
    naflex_patch_size_probs: Many, Ignored(NAFLEX);
    naflex_loss_scale: One ["linear"], Ignored(NAFLEX);
    naflex_patchify_channels_first: Switch, Ignored(NAFLEX);
    kd_model_name: One, Rejected("there is no distillation", "omit it; a loss of your own can be trained with the library");
    kd_distill_type: One ["logit"], Ignored(NO_DISTILLATION);
    kd_loss_type: One ["kl"], Ignored(NO_DISTILLATION);
    distill_loss_weight: One, Ignored(NO_DISTILLATION);
    task_loss_weight: One, Ignored(NO_DISTILLATION);
    kd_temperature: One ["4"], Ignored(NO_DISTILLATION);
    kd_student_feature_dim: One, Ignored(NO_DISTILLATION);
    kd_teacher_feature_dim: One, Ignored(NO_DISTILLATION);
    kd_token_distill_type: One ["soft"], Ignored(NO_DISTILLATION);
}

impl TimmOption {
    /// The option of a name with underscores.
    pub fn find(name: &str) -> Option<&'static TimmOption> {
        TIMM_OPTIONS.iter().find(|option| option.name == name)
    }

    /// Fornax's answer to a value; `None` at timm's default.
    pub fn answer_to(&self, value: &Value) -> Option<TimmAnswer> {
        (!self.is_default(value)).then_some(self.answer)
    }

    fn is_default(&self, value: &Value) -> bool {
        let is_empty = match value {
            Value::Null => true,
            Value::Bool(flag) => !flag,
            Value::String(text) => text.is_empty() || (self.values == Switch && text == "false"),
            Value::Array(values) => values.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Number(_) => false,
        };
        is_empty || self.defaults.iter().any(|default| super::definition::equals(value, default))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_at_their_default_are_accepted_in_silence() {
        let answer = |name: &str, value: Value| TimmOption::find(name).expect("known").answer_to(&value);
        for (name, value) in [
            ("wandb_tags", json!([])),
            ("kd_temperature", json!(4.0)),
            ("naflex_train_seq_lens", json!([128, 256, 576, 784, 1024])),
            ("torchcompile", json!(null)),
            ("channels_last", json!(false)),
            ("amp_impl", json!("native")),
        ] {
            assert_eq!(answer(name, value.clone()), None, "{name}: {value}");
        }
        assert!(matches!(answer("fuser", json!("nvfuser")), Some(Ignored(why)) if why.contains("fused")));
        assert!(matches!(answer("kd_model_name", json!("resnet50")), Some(Rejected(..))));
    }
}
