//! Options of timm's `train.py` without a setting of their own: always so in Fornax, or refused with the alternative.
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
    /// Accepted, for this reason: it changes nothing.
    AlwaysSo(&'static str),
    /// Refused, for a reason and with a remedy.
    Refused(&'static str, &'static str),
}

use TimmAnswer::{AlwaysSo, Refused};
use TimmValues::{Many, One, Optional, Switch};

const SIZES: (&str, &str) =
    ("the input size is fixed during a run", "train in stages: --initial-checkpoint with another --img-size");
const NAFLEX: (&str, &str) =
    ("there is no NaFlex model", "choose a ViT of `fornax models` and its input size with --img-size");
const DISTILLATION: (&str, &str) =
    ("there is no distillation", "omit it; a loss of your own can be trained with the library");
const WANDB: (&str, &str) =
    ("nothing is sent over the network", "import metrics.jsonl or summary.csv of the run's folder");
const COMPILER: (&str, &str) = (
    "kernels are compiled and fused already, and updates are captured as CUDA graphs",
    "omit it; --cuda-graph captures each update",
);
const PYTHON: (&str, &str) =
    ("Fornax runs no Python", "omit it; register modules of your own with the library");

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
    channels_last: Switch, AlwaysSo("channels-last is the only memory layout");
    pin_mem: Switch, AlwaysSo("batches go to a CUDA device through pinned memory");
    use_multi_epochs_loader: Switch, AlwaysSo("loader threads stay alive between epochs");
    worker_seeding: One ["all"], AlwaysSo("random numbers depend on seed, epoch and image, not on the worker");
    no_ddp_bb: Switch, AlwaysSo("buffers are those of rank 0 when they are read");
    fast_norm: Switch, Refused("AMP computes layer norm in f32", "use --opt-level O2, which keeps it in half precision");
    synchronize_step: Switch, Refused("an update is read after the next one is queued; results do not depend on it", "omit it");
    validation_batch_size_multiplier: One ["1"],
        Refused("the validation batch has a size of its own", "use --validation-batch-size");
    dataset_download: Switch, Refused("training downloads nothing", "run `fornax datasets download NAME` first");
    dataset_trust_remote_code: Switch, Refused("datasets contain no code", "omit it; export the images as a folder or tar archive");
    fuser: One, Refused(COMPILER.0, COMPILER.1);
    torchscript: Switch, Refused(COMPILER.0, COMPILER.1);
    torchcompile: Optional, Refused(COMPILER.0, COMPILER.1);
    torchcompile_mode: One, Refused(COMPILER.0, COMPILER.1);
    device_modules: Many, Refused(PYTHON.0, PYTHON.1);
    log_wandb: Switch, Refused(WANDB.0, WANDB.1);
    wandb_project: One, Refused(WANDB.0, WANDB.1);
    wandb_tags: Many, Refused(WANDB.0, WANDB.1);
    wandb_resume_id: One, Refused(WANDB.0, WANDB.1);
    train_img_sizes: Many, Refused(SIZES.0, SIZES.1);
    train_batch_sizes: Many, Refused(SIZES.0, SIZES.1);
    train_size_probs: Many, Refused(SIZES.0, SIZES.1);
    train_size_schedule: One ["constant"], Refused(SIZES.0, SIZES.1);
    train_size_schedule_spread: One ["0.65"], Refused(SIZES.0, SIZES.1);
    train_size_random_mix: One ["0.1"], Refused(SIZES.0, SIZES.1);
    variable_batch_loss_scale: One ["none"], Refused("every batch has --batch-size images", "omit it");
    naflex_loader: Switch, Refused(NAFLEX.0, NAFLEX.1);
    naflex_train_seq_lens: Many ["128 256 576 784 1024"], Refused(NAFLEX.0, NAFLEX.1);
    naflex_max_seq_len: One ["576"], Refused(NAFLEX.0, NAFLEX.1);
    naflex_patch_sizes: Many, Refused(NAFLEX.0, NAFLEX.1);
    naflex_patch_size_probs: Many, Refused(NAFLEX.0, NAFLEX.1);
    naflex_loss_scale: One ["linear"], Refused(NAFLEX.0, NAFLEX.1);
    naflex_patchify_channels_first: Switch, Refused(NAFLEX.0, NAFLEX.1);
    kd_model_name: One, Refused(DISTILLATION.0, DISTILLATION.1);
    kd_distill_type: One ["logit"], Refused(DISTILLATION.0, DISTILLATION.1);
    kd_loss_type: One ["kl"], Refused(DISTILLATION.0, DISTILLATION.1);
    distill_loss_weight: One, Refused(DISTILLATION.0, DISTILLATION.1);
    task_loss_weight: One, Refused(DISTILLATION.0, DISTILLATION.1);
    kd_temperature: One ["4"], Refused(DISTILLATION.0, DISTILLATION.1);
    kd_student_feature_dim: One, Refused(DISTILLATION.0, DISTILLATION.1);
    kd_teacher_feature_dim: One, Refused(DISTILLATION.0, DISTILLATION.1);
    kd_token_distill_type: One ["soft"], Refused(DISTILLATION.0, DISTILLATION.1);
}

impl TimmOption {
    /// The option of a name with underscores.
    pub fn find(name: &str) -> Option<&'static TimmOption> {
        TIMM_OPTIONS.iter().find(|option| option.name == name)
    }

    /// Reason and remedy if the value is refused.
    pub fn refusal(&self, value: &Value) -> Option<(&'static str, &'static str)> {
        match self.answer {
            Refused(why, remedy) if !self.is_default(value) => Some((why, remedy)),
            _ => None,
        }
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
    fn values_at_their_default_are_accepted_and_others_are_refused() {
        let refusal = |name: &str, value: Value| TimmOption::find(name).expect("known").refusal(&value);
        for (name, value) in [
            ("wandb_tags", json!([])),
            ("kd_temperature", json!(4.0)),
            ("naflex_train_seq_lens", json!([128, 256, 576, 784, 1024])),
            ("torchcompile", json!(null)),
            ("channels_last", json!(true)),
        ] {
            assert_eq!(refusal(name, value.clone()), None, "{name}: {value}");
        }
        assert!(
            refusal("fuser", json!("nvfuser")).is_some_and(|(_, remedy)| remedy.contains("--cuda-graph"))
        );
        assert!(refusal("kd_temperature", json!(3.0)).is_some());
    }
}
