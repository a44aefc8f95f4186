//! Cases: a run and an option of `fornax train` with another value than in the run.
use fornax::error::ErrorKind;

/// Option, by its name with underscores, in a run.
pub struct Case {
    pub name: &'static str,
    /// Arguments of the run.
    pub base: &'static str,
    /// The option with a value that differs from its value in the run.
    pub with: &'static str,
    pub change: Change,
}

/// Result of resuming the run with the option.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// The result that the definition of the option states, with the option's own name.
    AsDefined,
    /// The change is listed under this option.
    ListedAs(&'static str),
    /// Nothing changes.
    None,
    /// An error of this kind with these words.
    Error(ErrorKind, &'static str),
}

use Change::{AsDefined, Error, ListedAs};

const fn case(name: &'static str, base: &'static str, with: &'static str) -> Case {
    Case { name, base, with, change: AsDefined }
}

const fn listed_as(name: &'static str, base: &'static str, with: &'static str, option: &'static str) -> Case {
    Case { name, base, with, change: ListedAs(option) }
}

/// Case of an option that changes the images of the run.
const fn other_data(name: &'static str, base: &'static str, with: &'static str) -> Case {
    let change = Error(ErrorKind::Data, "the training data have changed");
    Case { name, base, with, change }
}

const fn other_classes(name: &'static str, base: &'static str, with: &'static str) -> Case {
    let change = Error(ErrorKind::Data, "the classes of the dataset have changed");
    Case { name, base, with, change }
}

const fn starts_loss_scaling(name: &'static str, base: &'static str, with: &'static str) -> Case {
    let change = Error(ErrorKind::Usage, "loss scaling cannot start within a run");
    Case { name, base, with, change }
}

const fn unchanged(name: &'static str, base: &'static str, with: &'static str) -> Case {
    Case { name, base, with, change: Change::None }
}

/// Options that the cases lack, with the reason.
pub const WITHOUT_CASE: [(&str, &str); 3] = [
    ("seeds", "several runs: train/tests/seeds.rs"),
    ("start_epoch", "of the resume itself: train/tests/experiment.rs"),
    ("no_resume_opt", "of the resume itself: train/tests/experiment.rs"),
];

pub const CASES: &[Case] = &[
    // Dataset
    case("dataset", "both", "--dataset idx"),
    listed_as("data_dir", "photos", "--data-dir ROOT/same", "--data-dir"),
    other_data("train_split", "photos", "--train-split other"),
    case("val_split", "photos", "--val-split other"),
    other_data("val_fraction", "unsplit", "--val-fraction 0.5"),
    other_classes("class_map", "photos", "--class-map ROOT/classes.txt"),
    other_data("input_key", "formats", "--input-key .jpg"),
    other_classes("target_key", "list.csv --val-fraction 0.5", "--target-key number"),
    Case {
        name: "input_img_mode",
        base: "photos",
        with: "--input-img-mode L",
        change: Error(ErrorKind::Usage, "--in-chans cannot change within a run"),
    },
    case("num_classes", "", "--num-classes 13"),
    other_data("train_num_samples", "", "--train-num-samples 12"),
    case("val_num_samples", "", "--val-num-samples 8"),
    case("epoch_repeats", "", "--epoch-repeats 2"),
    case("clip_len", "videos --clip-len 2", "--clip-len 3"),
    case("clip_sampling", "videos --clip-len 3", "--clip-sampling dense"),
    case("exif_orientation", "turned", "--exif-orientation"),
    case("gray16", "deep", "--gray16 saturate"),
    case("bad_image", "", "--bad-image skip"),
    case("max_bad", "", "--max-bad 0.2"),
    case("workers", "", "--workers 2"),
    case("prefetch", "--workers 1", "--prefetch 3"),
    case("loader_timeout", "--workers 1", "--loader-timeout 99"),
    case("no_prefetcher", "", "--no-prefetcher"),
    case("batch_size", "", "--batch-size 2"),
    case("validation_batch_size", "", "--validation-batch-size 5"),
    // Model
    case("model", "", "--model resnet20"),
    unchanged("pretrained", "", "--pretrained=false"),
    case("pretrained_path", "photos", "--pretrained-path ROOT/weights.safetensors"),
    case("initial_checkpoint", "photos", "--initial-checkpoint ROOT/weights.safetensors"),
    case("reset_classifier", "photos --initial-checkpoint ROOT/weights.safetensors", "--reset-classifier"),
    case("img_size", "photos", "--img-size 12"),
    case("input_size", "photos", "--input-size 3 12 20"),
    case("in_chans", "photos", "--in-chans 1"),
    case("mean", "photos", "--mean 0.1 0.2 0.3"),
    case("std", "photos", "--std 0.5"),
    case("crop_pct", "photos", "--crop-pct 0.5"),
    case("crop_mode", "photos", "--crop-mode squash"),
    case("interpolation", "photos", "--interpolation nearest"),
    case("model_kwargs", "", "--model-kwargs act_layer=silu"),
    case("drop", "", "--drop 0.5"),
    case("drop_path", "", "--drop-path 0.5"),
    listed_as("drop_connect", "--drop-connect 0.2", "--drop-connect 0.5", "--drop-path"),
    case("drop_block", "", "--drop-block 0.5"),
    case("gp", "", "--gp max"),
    case("head_init_scale", "", "--head-init-scale 0.5"),
    case("head_init_bias", "", "--head-init-bias -3"),
    // Batch norm
    case("bn_momentum", "", "--bn-momentum 0.3"),
    case("bn_eps", "", "--bn-eps 0.1"),
    case("bn_tf", "", "--bn-tf"),
    case("split_bn", "photos --aug-splits 2", "--split-bn"),
    // Distributed: without effect on one process
    unchanged("sync_bn", "", "--sync-bn"),
    unchanged("dist_bn", "", "--dist-bn broadcast"),
    unchanged("ddp_compress", "", "--ddp-compress bf16"),
    // Optimizer
    case("opt", "", "--opt adamw"),
    case("lr", "", "--lr 0.01"),
    listed_as("lr_base", "", "--lr-base 0.1", "--lr"),
    listed_as("lr_base_size", "--lr-base 0.1", "--lr-base-size 64", "--lr"),
    listed_as("lr_base_scale", "--lr-base 0.1", "--lr-base-scale sqrt", "--lr"),
    case("momentum", "", "--momentum 0.5"),
    case("opt_betas", "--opt adamw", "--opt-betas 0.5 0.9"),
    case("opt_eps", "--opt adamw", "--opt-eps 0.1"),
    case("opt_kwargs", "--opt adam --weight-decay 0.1", "--opt-kwargs decoupled_weight_decay=true"),
    case("weight_decay", "", "--weight-decay 0.1"),
    case("layer_decay", "", "--layer-decay 0.5"),
    case("layer_decay_min_scale", "--layer-decay 0.5", "--layer-decay-min-scale 0.4"),
    case("layer_decay_no_opt_scale", "--layer-decay 0.5", "--layer-decay-no-opt-scale 0.1"),
    case("clip_grad", "", "--clip-grad 0.1"),
    case("clip_mode", "--clip-grad 0.01", "--clip-mode value"),
    case("grad_accum_steps", "", "--grad-accum-steps 2"),
    // Schedule
    case("epochs", "", "--epochs 3"),
    case("sched", "", "--sched step"),
    case("sched_on_updates", "", "--sched-on-updates=false"),
    case("warmup_epochs", "", "--warmup-epochs 1"),
    case("warmup_lr", "--warmup-epochs 1", "--warmup-lr 0.02"),
    case("warmup_prefix", "--warmup-epochs 1", "--warmup-prefix"),
    case("min_lr", "", "--min-lr 0.01"),
    case("cooldown_epochs", "--min-lr 0.01", "--cooldown-epochs 1"),
    case("decay_epochs", "--sched step", "--decay-epochs 0.5"),
    case("decay_milestones", "--sched multistep --epochs 3", "--decay-milestones 2"),
    case("decay_rate", "--sched step", "--decay-rate 0.5"),
    case("patience_epochs", "--sched plateau", "--patience-epochs 0"),
    case("lr_lambda", "--sched lambda --lr-lambda 1", "--lr-lambda 0.5**epoch"),
    case("lr_decay_fn", "--sched wsd --decay-epochs 1", "--lr-decay-fn linear"),
    case("lr_stable_timescale", "--sched rsqrt --lr-stable-timescale 1", "--lr-stable-timescale 0.5"),
    case("lr_cycle_limit", "", "--lr-cycle-limit 2"),
    case("lr_cycle_mul", "--lr-cycle-limit 2", "--lr-cycle-mul 2"),
    case("lr_cycle_decay", "--lr-cycle-limit 2", "--lr-cycle-decay 0.2"),
    case("lr_k_decay", "", "--lr-k-decay 2"),
    case("lr_noise", "", "--lr-noise 0.5"),
    case("lr_noise_pct", "--lr-noise 0", "--lr-noise-pct 0.1"),
    case("lr_noise_std", "--lr-noise 0", "--lr-noise-std 0.1"),
    // Loss
    case("smoothing", "", "--smoothing 0.3"),
    case("bce_loss", "", "--bce-loss"),
    case("bce_sum", "--bce-loss", "--bce-sum"),
    case("bce_target_thresh", "--bce-loss", "--bce-target-thresh 0.2"),
    case("bce_pos_weight", "--bce-loss", "--bce-pos-weight 3"),
    case("jsd_loss", "photos --aug-splits 2", "--jsd-loss"),
    // EMA
    case("model_ema", "", "--model-ema"),
    case("model_ema_decay", "--model-ema", "--model-ema-decay 0.5"),
    case("model_ema_warmup", "--model-ema", "--model-ema-warmup"),
    case("model_ema_force_cpu", "--model-ema", "--model-ema-force-cpu"),
    // Precision
    starts_loss_scaling("amp", "", "--amp"),
    case("amp_dtype", "--amp", "--amp-dtype bfloat16"),
    case("opt_level", "--amp", "--opt-level O3"),
    listed_as("model_dtype", "", "--model-dtype bfloat16", "--opt-level"),
    case("grad_checkpointing", "", "--grad-checkpointing"),
    // Augmentation
    case("hflip", "photos", "--hflip 1"),
    case("no_aug", "photos", "--no-aug"),
    case("train_crop_mode", "photos", "--train-crop-mode rkrc"),
    case("scale", "photos", "--scale 0.5 0.6"),
    case("ratio", "photos", "--ratio 0.4 0.5"),
    case("vflip", "photos", "--vflip 0.5"),
    case("color_jitter", "photos", "--color-jitter 0.1"),
    case("color_jitter_prob", "photos", "--color-jitter-prob 0.5"),
    case("grayscale_prob", "photos", "--grayscale-prob 0.5"),
    case("gaussian_blur_prob", "photos", "--gaussian-blur-prob 0.5"),
    case("aa", "photos", "--aa rand-m9-mstd0.5"),
    case("aug_splits", "photos", "--aug-splits 2"),
    case("aug_repeats", "photos", "--aug-repeats 2"),
    case("reprob", "photos", "--reprob 0.5"),
    case("remode", "photos --reprob 0.5", "--remode const"),
    case("recount", "photos --reprob 0.5", "--recount 3"),
    case("resplit", "photos --reprob 0.5 --aug-splits 2", "--resplit"),
    case("mixup", "photos", "--mixup 0.5"),
    case("cutmix", "photos", "--cutmix 1"),
    case("cutmix_minmax", "photos --cutmix 1", "--cutmix-minmax 0.2 0.3"),
    case("mixup_prob", "photos --mixup 0.5", "--mixup-prob 0.3"),
    case("mixup_switch_prob", "photos --mixup 0.5 --cutmix 1", "--mixup-switch-prob 1"),
    case("mixup_mode", "photos --mixup 0.5", "--mixup-mode elem"),
    case("mixup_off_epoch", "photos --mixup 0.5", "--mixup-off-epoch 1"),
    case("train_interpolation", "photos", "--train-interpolation nearest"),
    case("tta", "photos", "--tta 2"),
    case("shift", "", "--shift 3"),
    // Run
    case("defaults", "", "--defaults timm"),
    case("seed", "", "--seed 7"),
    case("eval_metric", "", "--eval-metric loss"),
    case("val_interval", "", "--val-interval 3"),
    case("recovery_interval", "", "--recovery-interval 3"),
    case("checkpoint_hist", "", "--checkpoint-hist 3"),
    case("save_images", "", "--save-images"),
    case("early_stop_patience", "", "--early-stop-patience 9"),
    starts_loss_scaling("on_nonfinite", "", "--on-nonfinite skip"),
    case("train_batches_per_epoch", "", "--train-batches-per-epoch 3"),
    case("conv_algo", "", "--conv-algo direct"),
    case("cudnn_benchmark", "", "--cudnn-benchmark=false"),
    case("deterministic", "", "--deterministic=false"),
];
