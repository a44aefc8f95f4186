//! Conditions under which a setting has an effect.
use super::{DefaultSet, ImageMode, ModelDtype, OptLevelArg, Settings};
use crate::augment::TrainCropMode;
use crate::data::BadImagePolicy;
use crate::schedule::Sched;

/// Settings, and the resolved values that decide whether another setting has an effect.
#[derive(Clone, Copy, Debug)]
pub struct SettingsContext<'a> {
    /// All settings.
    pub given: &'a Settings,
    /// Learning-rate schedule.
    pub sched: Sched,
    /// The schedule starts with a warmup.
    pub has_warmup: bool,
    /// The learning rate is scaled with the batch size.
    pub scales_lr: bool,
    /// The optimizer has momentum.
    pub has_momentum: bool,
    /// Images are files that are decoded.
    pub has_image_files: bool,
    /// Training crop mode; `None` if it depends on the dataset.
    pub train_crop_mode: Option<TrainCropMode>,
    /// Colours are jittered.
    pub has_color_jitter: bool,
    /// The run has several ranks.
    pub has_ranks: bool,
}

/// Condition under which a setting has an effect.
#[derive(Clone, Copy, Debug)]
pub struct Requirement {
    /// True if the setting has an effect.
    pub holds: fn(&SettingsContext) -> bool,
    /// Reason for the lack of an effect.
    pub why: &'static str,
    /// Remedy.
    pub remedy: &'static str,
    /// The setting contradicts another one, or the result that it asks for cannot be given: an error rather than a warning.
    pub is_contradiction: bool,
}

macro_rules! requirements {
    ($($name:ident: $holds:expr, $why:literal, $remedy:literal $(, $contradiction:ident)?;)*) => {
        $(pub(super) const $name: Requirement = Requirement {
            holds: $holds,
            why: $why,
            remedy: $remedy,
            is_contradiction: requirements!(@is_contradiction $($contradiction)?),
        };)*
    };
    (@is_contradiction) => { false };
    (@is_contradiction contradiction) => { true };
}

requirements! {
    NO_INITIAL_CHECKPOINT: |c| c.given.initial_checkpoint.is_none(),
        "--initial-checkpoint replaces all weights", "use one of the two";
    LOADED_WEIGHTS: |c| c.given.initial_checkpoint.is_some()
        || c.given.pretrained_path.is_some()
        || c.given.pretrained == Some(true),
        "no weights are loaded", "use --initial-checkpoint, --pretrained-path or --pretrained too";
    PRETRAINED: |c| c.given.pretrained != Some(false) || c.given.pretrained_path.is_none(),
        "--no-pretrained is given", "use one of the two", contradiction;
    NO_LR: |c| c.given.lr.is_none(),
        "--lr is given", "use one of the two";
    LR_BASE: |c| c.scales_lr,
        "the learning rate is not scaled with the batch size", "use --lr-base instead of --lr";
    MOMENTUM: |c| c.has_momentum,
        "the optimizer has no momentum", "omit it, or choose another --opt";
    CLIP_GRAD: |c| c.given.clip_grad.is_some(),
        "--clip-grad is not given", "use --clip-grad too";
    LAYER_DECAY: |c| c.given.layer_decay.is_some(),
        "--layer-decay is not given", "use --layer-decay too";
    WARMUP: |c| c.has_warmup,
        "there is no warmup", "use --warmup-epochs too";
    SEVERAL_CYCLES: |c| c.given.lr_cycle_limit.unwrap_or(1) > 1,
        "there is one cycle", "use --lr-cycle-limit too";
    LR_NOISE: |c| c.given.lr_noise.is_some(),
        "there is no noise", "use --lr-noise too";
    NO_JSD: |c| c.given.jsd_loss != Some(true),
        "--jsd-loss replaces it", "use one of the two";
    BCE_LOSS: |c| c.given.bce_loss == Some(true),
        "the loss is not binary cross entropy", "use --bce-loss too";
    MODEL_EMA: |c| c.given.model_ema == Some(true),
        "there is no EMA", "use --model-ema too";
    NO_MODEL_DTYPE: |c| c.given.model_dtype.and_then(ModelDtype::half).is_none_or(|dtype| c.given.amp_dtype == Some(dtype)),
        "--model-dtype is given", "use one of the two";
    HALF_PRECISION: |c| computes_in_half(c.given),
        "everything is computed in f32", "use --amp too";
    ERASING: |c| is_positive(c.given.reprob),
        "nothing is erased", "use --reprob too";
    SPLITS: |c| c.given.has_splits(),
        "there are no augmentation splits", "use --aug-splits 2 or more too", contradiction;
    SPLITS_OR_RESPLIT: |c| c.given.has_splits() || c.given.resplit == Some(true),
        "the batch has no splits", "use --aug-splits 2 or more, or --resplit, too", contradiction;
    ERASING_OR_SPLIT_BN: |c| is_positive(c.given.reprob) || c.given.split_bn == Some(true),
        "nothing is erased, and batch norm is not split", "use --reprob or --split-bn too";
    MIXING: |c| c.given.is_mixing(),
        "neither mixup nor CutMix is on", "use --mixup, --cutmix or --cutmix-minmax too";
    MIXUP_AND_CUTMIX: |c| is_positive(c.given.mixup) && c.given.is_cutting(),
        "mixup and CutMix are not both on", "use --mixup and --cutmix too";
    RESIZED_CROP: |c| c.train_crop_mode != Some(TrainCropMode::Shift),
        "the training crop mode shift keeps the size of the images", "use --train-crop-mode rrc, rkrc or rkrr too";
    SHIFT_CROP: |c| c.train_crop_mode.is_none_or(|mode| mode == TrainCropMode::Shift),
        "the training crop mode is not shift", "use --train-crop-mode shift too";
    COLOR_JITTER: |c| c.has_color_jitter,
        "there is no colour jitter", "use --color-jitter too";
    IMAGE_FILES: |c| c.has_image_files,
        "the images of this dataset are not files with an orientation", "omit it";
    CLIPS: |c| c.given.clip_len.is_some(),
        "a sample is a single image", "use --clip-len too";
    TOLERATES_BAD_IMAGES: |c| c.given.bad_image != Some(BadImagePolicy::Error),
        "--bad-image error ends the run at the first bad image", "use --bad-image replace or skip";
    WORKERS: |c| c.given.workers != Some(0),
        "--workers 0 loads each batch on the training thread", "use at least one worker";
    AUGMENTATION: |c| c.given.no_aug != Some(true),
        "--no-aug is given", "use one of the two";
    NO_POLICY: |c| c.given.aa.as_ref().is_none_or(|policy| policy.allows_color_jitter()),
        "as in timm, --aa replaces colour jitter, except in the policy 3a", "use one of the two";
    RANKS: |c| c.has_ranks,
        "the run has one process", "omit it, or start several processes: fornax launch";
    NO_SYNC_BN: |c| c.given.sync_bn != Some(true),
        "with --sync-bn the running statistics are equal on all ranks", "use one of the two";
    OWN_DEFAULTS: |c| c.given.defaults != Some(DefaultSet::Timm),
        "timm's train.py ignores it, and --defaults timm is given", "use --drop-path";
    NO_DROP_PATH: |c| c.given.drop_path.is_none(),
        "--drop-path is given", "use one of the two";
    RGB: |c| c.given.channels() != Some(1),
        "the images are grey: the model has 1 input channel", "omit it, or use --in-chans 3";
    NO_INPUT_SIZE: |c| c.given.input_size.is_none(),
        "--input-size replaces it", "use one of the two";
}

impl Settings {
    /// Input channels, if they are given.
    pub fn channels(&self) -> Option<usize> {
        let of_size = self.input_size.as_ref().and_then(|size| size.first().copied());
        of_size.or(self.in_chans).or(self.input_img_mode.map(ImageMode::channels))
    }

    /// True if mixup or CutMix is on.
    pub fn is_mixing(&self) -> bool {
        is_positive(self.mixup) || self.is_cutting()
    }

    /// True if CutMix is on.
    pub fn is_cutting(&self) -> bool {
        is_positive(self.cutmix) || self.cutmix_minmax.is_some()
    }

    /// True if each image is augmented several times.
    pub fn has_splits(&self) -> bool {
        self.aug_splits.is_some_and(|splits| splits > 1)
    }
}

fn computes_in_half(given: &Settings) -> bool {
    match (given.model_dtype.and_then(ModelDtype::half), given.opt_level) {
        (Some(_), _) => true,
        (None, Some(level)) => level != OptLevelArg::O0,
        (None, None) => given.amp == Some(true),
    }
}

fn is_positive(value: Option<f64>) -> bool {
    value.is_some_and(|value| value > 0.0)
}
