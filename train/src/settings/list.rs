//! Every setting of a run.
use super::choices::{
    AmpDtype, ClipMode, ConvAlgo, DefaultSet, DistBn, EraseModeArg, EvalMetric, GradCompression, ImageMode,
    LrScale, ModelDtype, NonfinitePolicy, OptLevelArg,
};
use super::definition::{SettingDefinition, settings};
use super::on_resume::*;
use super::range::*;
use super::requirement::*;
use super::seeds::Seeds;
use super::serde_text;
use super::value_parsers::{batch_size, name_value, pooling, utf8_path};
use crate::augment::mixup::MixupMode;
use crate::augment::policies::AutoAugment;
use crate::augment::{TrainCropMode, TrainInterpolation};
use crate::data::decode::Gray16;
use crate::data::eval_transform::CropMode;
use crate::data::resize::ResizeFilter;
use crate::data::{BadImagePolicy, ClipSampling};
use crate::optim::OptimizerName;
use crate::schedule::{DecayFn, Sched};
use std::path::PathBuf;

settings! {
    "Dataset" {
        /// Dataset or format; `fornax datasets` lists them
        #[arg(value_name = "NAME")]
        dataset: String = "found from the files; digits without DIR", on resume DATASET, in short help;
        /// Dataset root, same as DIR
        #[arg(value_name = "DIR", alias = "data", value_parser = utf8_path)]
        data_dir: PathBuf, in short help;
        /// Training split: name of a subfolder, archive or file
        #[arg(value_name = "NAME")]
        train_split: String = "train";
        /// Validation split: name of a subfolder, archive or file
        #[arg(value_name = "NAME")]
        val_split: String = "validation, val, eval or evaluation";
        /// Without a validation split: fraction of each class that is held out for validation
        #[arg(value_name = "FRACTION")]
        val_fraction: f64 = "0.1", within FRACTION, in short help;
        /// Class map: text file with one class name per line, in the order of the logits; images of other classes are ignored
        #[arg(value_name = "FILE", value_parser = utf8_path)]
        class_map: PathBuf, in short help;
        /// Column of the paths in a CSV list, or extensions of the images in a folder, such as .png;.jpg
        #[arg(value_name = "NAME")]
        input_key: String = "path, file, filename or image; every supported extension";
        /// Column of the labels in a CSV list
        #[arg(value_name = "NAME")]
        target_key: String = "label, class, class_name or target";
        /// Conversion of the images: RGB or L (grey)
        #[arg(value_name = "MODE", ignore_case = true)]
        input_img_mode: ImageMode = "RGB for 3 input channels, L for 1";
        /// Number of classes, at least as many as the dataset has
        #[arg(value_name = "N")]
        num_classes: usize = "the dataset's", within CLASS_COUNT, on resume ARCHITECTURE, in short help;
        /// Use the first N training images of a keyed shuffle
        #[arg(value_name = "N")]
        train_num_samples: usize = "all";
        /// Use the first N validation images of a keyed shuffle
        #[arg(value_name = "N")]
        val_num_samples: usize = "all";
        /// Passes over the training images per epoch
        #[arg(value_name = "N")]
        epoch_repeats: f64 = "1" | "0", within NON_NEGATIVE, on resume SAMPLE_ORDER;
        /// Frames per clip, for videos as folders of frames
        #[arg(value_name = "T")]
        clip_len: usize = "single images", within FRAMES;
        /// Frames of a clip: sparse over the whole video, or dense (adjacent)
        #[arg(value_name = "MODE")]
        #[serde(with = "serde_text::value_enum")]
        clip_sampling: ClipSampling = "sparse", needs CLIPS;
        /// Rotate and flip images by their EXIF orientation, which timm ignores
        exif_orientation: bool, needs IMAGE_FILES;
        /// 16-bit grey images: scale to 8 bits, or saturate at 255 as Pillow and timm do
        #[arg(value_name = "MODE")]
        #[serde(with = "serde_text::value_enum")]
        gray16: Gray16 = "scale", needs IMAGE_FILES;
        /// Training image that cannot be decoded: end the run (error), omit it from its batch (skip), or take another image (replace)
        #[arg(value_name = "POLICY")]
        bad_image: BadImagePolicy = "replace";
        /// Fraction of bad images above which the run ends
        #[arg(value_name = "FRACTION")]
        max_bad: f64 = "0.001", within PROBABILITY, needs TOLERATES_BAD_IMAGES;
        /// Loader threads; results do not depend on it; 0: load on the training thread
        #[arg(short = 'j', value_name = "N")]
        workers: usize = "4, at most one per CPU", within WORKER_COUNT, in short help;
        /// Batches that the loader prepares ahead
        #[arg(value_name = "N")]
        prefetch: usize = "2", within PREFETCHED, needs WORKERS;
        /// Seconds without a batch after which a stalled loader is an error
        #[arg(value_name = "SECONDS")]
        loader_timeout: u32 = "120", within AT_LEAST_ONE, needs WORKERS;
        /// Normalise, mix and erase on the loader threads instead of the device; results do not depend on it
        no_prefetcher: bool;
        /// Training batch size, in images; auto: the largest power of two that fits into memory
        #[arg(short = 'b', value_name = "N", value_parser = batch_size)]
        batch_size: u32, on resume SAMPLE_ORDER, in short help;
        /// Validation batch size, in images (also -vb)
        #[arg(value_name = "N")]
        validation_batch_size: u32 = "256", within AT_LEAST_ONE, in short help;
    }
    "Model" {
        /// Model architecture name; `fornax models` lists them
        #[arg(value_name = "NAME")]
        model: String, on resume ARCHITECTURE, in short help;
        /// Start from published pretrained weights; the classifier is re-initialised if the number of classes differs
        pretrained: bool, needs NO_INITIAL_CHECKPOINT, on resume INITIAL_WEIGHTS, in short help;
        /// Start from these pretrained weights of a task of any classes: a safetensors or PyTorch file, a folder, or hf-hub:ORGANISATION/NAME
        #[arg(value_name = "SOURCE")]
        pretrained_path: String, needs NO_INITIAL_CHECKPOINT, needs PRETRAINED, on resume INITIAL_WEIGHTS, in short help;
        /// Start from the weights in this safetensors or PyTorch file or folder; every tensor must match the model
        #[arg(value_name = "PATH", value_parser = utf8_path)]
        initial_checkpoint: PathBuf, on resume INITIAL_WEIGHTS, in short help;
        /// Re-initialise the classifier of the loaded weights, whatever its number of classes
        reset_classifier: bool, needs LOADED_WEIGHTS, on resume INITIAL_WEIGHTS;
        /// Side of the square input images
        #[arg(value_name = "N")]
        img_size: usize = "the model's; for digits, IDX and CIFAR the dataset's, if the model takes any size", within PIXELS, needs NO_INPUT_SIZE, in short help;
        /// Input size: channels, height and width; overrides --img-size and --in-chans
        #[arg(value_name = "N", num_args = 3)]
        input_size: Vec<usize>, within PIXELS;
        /// Input channels: 3 (RGB) or 1 (grey); images are converted
        #[arg(value_name = "N")]
        in_chans: usize = "3; for digits, IDX and CIFAR the dataset's", needs NO_INPUT_SIZE, on resume ARCHITECTURE;
        /// Mean for the normalisation, one value or one per channel
        #[arg(value_name = "MEAN", num_args = 1..)]
        mean: Vec<f32> = "the dataset's or the model's", within MEAN;
        /// Standard deviation for the normalisation, one value or one per channel
        #[arg(value_name = "STD", num_args = 1..)]
        std: Vec<f32> = "the dataset's or the model's", within STD;
        /// Validation: fraction of the resized image that the crop keeps
        #[arg(value_name = "FRACTION")]
        crop_pct: f64 = "the model's", within CROP_PCT;
        /// Validation: crop mode
        #[arg(value_name = "MODE")]
        #[serde(with = "serde_text::value_enum")]
        crop_mode: CropMode = "the model's";
        /// Validation: resampling filter
        #[arg(value_name = "FILTER")]
        #[serde(with = "serde_text::value_enum")]
        interpolation: ResizeFilter = "the model's";
        /// Further model options, by timm's names
        #[arg(value_name = "NAME=VALUE", num_args = 1..)]
        model_kwargs: Vec<String>, on resume ARCHITECTURE;
        /// Dropout rate before the classifier
        #[arg(value_name = "P")]
        drop: f64 = "0", within BELOW_ONE;
        /// Drop path rate (stochastic depth) of the last block, linearly less in earlier blocks
        #[arg(value_name = "P")]
        drop_path: f64 = "0", within BELOW_ONE, in short help;
        /// Old name of --drop-path; timm's train.py ignores it
        #[arg(value_name = "P")]
        drop_connect: f64 = "0", within BELOW_ONE, needs OWN_DEFAULTS, needs NO_DROP_PATH;
        /// DropBlock rate in the last two stages; ResNets only
        #[arg(value_name = "P")]
        drop_block: f64 = "0", within BELOW_ONE;
        /// Global pooling type: avg, max, avgmax, catavgmax, or token for transformers
        #[arg(value_name = "NAME", value_parser = pooling)]
        gp: String = "the model's own", on resume ARCHITECTURE;
        /// Scale of the classifier's initial weights and biases
        #[arg(value_name = "FACTOR")]
        head_init_scale: f64 = "1", within NON_NEGATIVE, on resume INITIAL_WEIGHTS;
        /// Initial value of the classifier's biases
        #[arg(value_name = "VALUE", allow_negative_numbers = true)]
        head_init_bias: f64 = "the model's own", on resume INITIAL_WEIGHTS;
    }
    "Batch norm" {
        /// Batch norm momentum: weight of the batch in the running statistics
        #[arg(value_name = "M")]
        bn_momentum: f64 = "the model's own", within UP_TO_ONE;
        /// Batch norm epsilon
        #[arg(value_name = "EPS")]
        bn_eps: f64 = "the model's own", within POSITIVE;
        /// TensorFlow's batch norm defaults: momentum 0.01, epsilon 1e-3
        bn_tf: bool;
        /// Separate batch norm layers for each augmentation split; evaluation uses those of the first, clean split
        split_bn: bool, needs SPLITS_OR_RESPLIT, on resume ARCHITECTURE;
    }
    "Distributed" {
        /// Synchronised batch norm: statistics over the batches of all ranks
        sync_bn: bool, needs RANKS, in short help;
        /// Running statistics of batch norm at the end of an epoch: mean of all ranks (reduce), those of rank 0 (broadcast), or none
        #[arg(value_name = "MODE")]
        dist_bn: DistBn = "reduce", needs RANKS, needs NO_SYNC_BN;
        /// Dtype of the gradients that ranks exchange, for slow networks: f16 or bf16
        #[arg(value_name = "DTYPE")]
        ddp_compress: GradCompression = "f32", needs RANKS;
    }
    "Optimizer" {
        /// Optimizer, by timm's name; the prefix lookahead_ wraps it in Lookahead
        #[arg(value_name = "NAME")]
        opt: OptimizerName = "sgd", on resume OPTIMIZER, in short help;
        /// Peak learning rate (mutually exclusive with --lr-base)
        #[arg(value_name = "LR")]
        lr: f64, within LR, in short help;
        /// Base learning rate: peak at batch size --lr-base-size, scaled to the actual batch size (mutually exclusive with --lr)
        #[arg(value_name = "LR")]
        lr_base: f64 = "0.1 for image files" | "0.1", within POSITIVE_LR, needs NO_LR;
        /// Reference batch size of --lr-base
        #[arg(value_name = "N")]
        lr_base_size: u32 = "256", within AT_LEAST_ONE, needs LR_BASE;
        /// Scaling of --lr-base with the batch size
        #[arg(value_name = "RULE")]
        lr_base_scale: LrScale = "sqrt if the optimizer's name contains ada or lamb, else linear", needs LR_BASE;
        /// Momentum, for optimizers that have it
        #[arg(value_name = "M")]
        momentum: f64 = "the optimizer's own, 0.9 for most" | "0.9", within BELOW_ONE, needs MOMENTUM;
        /// Betas (decay rates of the moments)
        #[arg(value_name = "B", num_args = 2..=3)]
        opt_betas: Vec<f64> = "the optimizer's own, 0.9 0.999 for most", within BELOW_ONE, in short help;
        /// Epsilon in the denominator
        #[arg(value_name = "EPS")]
        opt_eps: f64 = "the optimizer's own, 1e-8 for most", within POSITIVE;
        /// Further optimizer arguments, by timm's names
        #[arg(value_name = "NAME=VALUE", num_args = 1.., value_parser = name_value)]
        opt_kwargs: Vec<String>;
        /// Weight decay; not applied to biases and one-dimensional parameters
        #[arg(value_name = "WD")]
        weight_decay: f64, within NON_NEGATIVE, in short help;
        /// Layer-wise learning-rate decay: factor from each layer to the one before it
        #[arg(value_name = "FACTOR")]
        layer_decay: f64 = "none", within UP_TO_ONE;
        /// Minimum learning-rate scale of --layer-decay
        #[arg(value_name = "FACTOR")]
        layer_decay_min_scale: f64 = "0", within PROBABILITY, needs LAYER_DECAY;
        /// Freeze layers whose --layer-decay scale is below this
        #[arg(value_name = "FACTOR")]
        layer_decay_no_opt_scale: f64 = "none", within PROBABILITY, needs LAYER_DECAY;
        /// Gradient clipping threshold
        #[arg(value_name = "THRESHOLD")]
        clip_grad: f64 = "no clipping", within POSITIVE, in short help;
        /// Gradient clipping mode
        #[arg(value_name = "MODE")]
        clip_mode: ClipMode = "norm", needs CLIP_GRAD;
        /// Gradient accumulation steps: batches per update
        #[arg(value_name = "N")]
        grad_accum_steps: u32 = "1", within ACCUMULATION_STEPS, on resume UPDATE_COUNT, in short help;
    }
    "Schedule" {
        /// Epochs to train; with --lr-cycle-limit, length of the first cycle
        #[arg(value_name = "N")]
        epochs: u32, within AT_LEAST_ONE, in short help;
        /// Learning-rate scheduler
        #[arg(value_name = "NAME")]
        sched: Sched = "cosine", in short help;
        /// Step the scheduler after every update instead of every epoch
        sched_on_updates: bool = "true, but false for plateau", sched [Cosine Tanh Step MultiStep Poly Exponential Lambda Wsd Rsqrt Constant None];
        /// Epochs of linear learning-rate warmup
        #[arg(value_name = "N")]
        warmup_epochs: u32 | "5", sched [Cosine Tanh Step MultiStep Poly Plateau Exponential Lambda Wsd Rsqrt Constant], in short help;
        /// Learning rate at the start of the warmup
        #[arg(value_name = "LR")]
        warmup_lr: f64 = "1e-5" | "0.0001", within LR, sched [Cosine Tanh Step MultiStep Poly Plateau Exponential Lambda Wsd Rsqrt Constant], needs WARMUP, in short help;
        /// Run the warmup before the schedule instead of during its first epochs
        warmup_prefix: bool, sched [Cosine Tanh Step MultiStep Poly Plateau Exponential Lambda Wsd Rsqrt Constant], needs WARMUP;
        /// Minimum learning rate: end value of cosine, tanh, poly, wsd and rsqrt, lower bound of plateau
        #[arg(value_name = "LR")]
        min_lr: f64 = "0" | "1e-5" | "1e-6", within LR, sched [Cosine Tanh Poly Wsd Rsqrt Plateau], in short help;
        /// Cooldown: epochs at --min-lr after cosine, tanh, poly, wsd or rsqrt
        #[arg(value_name = "N")]
        cooldown_epochs: u32 = "0" | "10", sched [Cosine Tanh Poly Wsd Rsqrt];
        /// Epoch interval of step; decay length of wsd and rsqrt, a fraction if below 1
        #[arg(value_name = "EPOCHS")]
        decay_epochs: f64 = "0.3 of --epochs for step, 0.2 for wsd and rsqrt" | "90" | "30" | "100", within POSITIVE, sched [Step Wsd Rsqrt];
        /// Decay epochs of multistep; as in timm, each takes effect one epoch early
        #[arg(value_name = "EPOCH", num_args = 1..)]
        decay_milestones: Vec<u32> = "0.3, 0.6 and 0.9 of --epochs" | "90 180 270" | "30 60", sched [MultiStep];
        /// Decay factor of step, multistep, plateau and exponential, power of poly (also --dr)
        #[arg(value_name = "FACTOR", alias = "dr")]
        decay_rate: f64 = "0.1; 0.95 for exponential" | "0.1", within POSITIVE, sched [Step MultiStep Poly Plateau Exponential];
        /// Patience of plateau: epochs without improvement of --eval-metric
        #[arg(value_name = "N")]
        patience_epochs: u32 = "10", sched [Plateau];
        /// Learning-rate factor of lambda, a Python expression: "0.95 ** epoch", "1 if epoch < 10 else 0.1"
        #[arg(value_name = "EXPRESSION")]
        lr_lambda: String, sched [Lambda];
        /// Decay function of wsd and rsqrt
        #[arg(value_name = "NAME")]
        lr_decay_fn: DecayFn = "1-sqrt for wsd, linear for rsqrt", sched [Wsd Rsqrt];
        /// Timescale of rsqrt: epochs until the learning rate is --lr / sqrt(2)
        #[arg(value_name = "EPOCHS")]
        lr_stable_timescale: f64 = "--warmup-epochs", within POSITIVE, sched [Rsqrt];
        /// Number of cycles of cosine, tanh and poly
        #[arg(value_name = "N")]
        lr_cycle_limit: u32 = "1", within AT_LEAST_ONE, sched [Cosine Tanh Poly];
        /// Cycle length multiplier
        #[arg(value_name = "FACTOR")]
        lr_cycle_mul: f64 = "1", within POSITIVE, sched [Cosine Tanh Poly], needs SEVERAL_CYCLES;
        /// Peak learning-rate multiplier per cycle
        #[arg(value_name = "FACTOR")]
        lr_cycle_decay: f64 = "0.5", within POSITIVE, sched [Cosine Tanh Poly], needs SEVERAL_CYCLES;
        /// k-decay exponent of cosine and poly; above 1 the learning rate stays high for longer
        #[arg(value_name = "K")]
        lr_k_decay: f64 = "1", within POSITIVE, sched [Cosine Poly];
        /// Learning-rate noise: start and optional end, as fractions of --epochs
        #[arg(value_name = "FRACTION", num_args = 1..=2)]
        lr_noise: Vec<f64> = "none", within PROBABILITY;
        /// Learning-rate noise limit, as a fraction of the learning rate
        #[arg(value_name = "LIMIT")]
        lr_noise_pct: f64 = "0.67", within POSITIVE, needs LR_NOISE;
        /// Learning-rate noise standard deviation, as a fraction of the learning rate
        #[arg(value_name = "STD")]
        lr_noise_std: f64 = "1", within POSITIVE, needs LR_NOISE;
    }
    "Loss" {
        /// Label smoothing
        #[arg(value_name = "S")]
        smoothing: f64, within BELOW_ONE, in short help;
        /// Binary cross entropy (BCE) instead of cross entropy; unlike timm, also with --smoothing 0
        bce_loss: bool, needs NO_JSD, in short help;
        /// Sum the BCE loss over classes instead of averaging it
        bce_sum: bool, needs BCE_LOSS;
        /// Threshold that binarises smoothed or mixed BCE targets
        #[arg(value_name = "THRESHOLD")]
        bce_target_thresh: f64 = "none", within BELOW_ONE, needs BCE_LOSS;
        /// Positive weight of the BCE loss
        #[arg(value_name = "WEIGHT")]
        bce_pos_weight: f64 = "1", within POSITIVE, needs BCE_LOSS;
        /// Cross entropy with Jensen-Shannon divergence over augmentation splits; needs --aug-splits of 2 or more
        #[arg(alias = "jsd")]
        jsd_loss: bool, needs SPLITS;
    }
    "EMA" {
        /// Keep an exponential moving average (EMA) of the weights; it is evaluated and saved with the model
        model_ema: bool, in short help;
        /// EMA decay per update
        #[arg(value_name = "D")]
        model_ema_decay: f64 = "0.9998", within BELOW_ONE, needs MODEL_EMA, in short help;
        /// Warm up the EMA decay: raise it from 0 over the first updates
        model_ema_warmup: bool, needs MODEL_EMA;
        /// Keep the EMA weights on the CPU while the model trains on another device; they are not evaluated then
        model_ema_force_cpu: bool, needs MODEL_EMA;
    }
    "Precision" {
        /// Automatic mixed precision (AMP): matmuls and convolutions in half precision; same as --opt-level O1
        #[arg(aliases = ["native-amp", "apex-amp"])]
        amp: bool, in short help;
        /// Half-precision dtype of AMP; float16 uses loss scaling
        #[arg(value_name = "DTYPE")]
        amp_dtype: AmpDtype = "float16", needs NO_MODEL_DTYPE, needs HALF_PRECISION, in short help;
        /// Apex-style optimization level: O0 (f32) to O3 (pure half)
        #[arg(value_name = "LEVEL", ignore_case = true)]
        opt_level: OptLevelArg = "O0";
        /// Dtype of the weights: float16 or bfloat16 is --opt-level O3 in that dtype, float32 is O0
        #[arg(value_name = "DTYPE")]
        model_dtype: ModelDtype = "float32";
        /// Gradient checkpointing: recompute blocks in the backward pass, for less memory and about a third more compute
        grad_checkpointing: bool, in short help;
    }
    "Augmentation" {
        /// Horizontal flip probability
        #[arg(value_name = "P")]
        hflip: f64 = "0.5; 0 for digits and MNIST" | "0.5", within PROBABILITY, needs AUGMENTATION, in short help;
        /// No augmentation: only resize both sides to the input size, with --interpolation; mixup and CutMix stay
        no_aug: bool, in short help;
        /// Training crop: random resized crop (rrc), resize with nearly the aspect ratio and crop the centre (rkrc) or at random (rkrr), or resize to the input size and shift by up to --shift pixels (shift)
        #[arg(value_name = "MODE")]
        #[serde(with = "serde_text::value_enum")]
        train_crop_mode: TrainCropMode = "rrc; shift for small images: digits, IDX, CIFAR", needs AUGMENTATION;
        /// Range of the crop's area, as a fraction; in rkrc and rkrr of the resize scale
        #[arg(value_name = "FRACTION", num_args = 2)]
        scale: Vec<f64> = "0.08 1; in rkrc and rkrr 0.8 1, where timm's train.py passes 0.08 1" | "0.08 1", within SCALE, needs AUGMENTATION, needs RESIZED_CROP, in short help;
        /// Range of the crop's aspect ratio; in rkrc and rkrr of its change
        #[arg(value_name = "RATIO", num_args = 2)]
        ratio: Vec<f64> = "0.75 1.3333; in rkrc and rkrr 0.9 1.1111, where timm's train.py passes 0.75 1.3333" | "0.75 1.3333333333333333", within POSITIVE, needs AUGMENTATION, needs RESIZED_CROP;
        /// Vertical flip probability
        #[arg(value_name = "P")]
        vflip: f64 = "0", within PROBABILITY, needs AUGMENTATION;
        /// Colour jitter: factor of brightness, contrast and saturation; or one for each, and a fourth for hue; ignored with --aa, except 3a
        #[arg(value_name = "FACTOR", num_args = 1..=4)]
        color_jitter: Vec<f64> = "0.4; 0 for small images" | "0.4", within JITTER, needs AUGMENTATION, needs NO_POLICY, in short help;
        /// Colour jitter probability
        #[arg(value_name = "P")]
        color_jitter_prob: f64 = "1", within PROBABILITY, needs AUGMENTATION, needs NO_POLICY, needs COLOR_JITTER;
        /// Grayscale probability
        #[arg(value_name = "P")]
        grayscale_prob: f64 = "0", within PROBABILITY, needs AUGMENTATION, needs RGB;
        /// Gaussian blur probability
        #[arg(value_name = "P")]
        gaussian_blur_prob: f64 = "0", within PROBABILITY, needs AUGMENTATION;
        /// Policy: v0, v0r, original, originalr, 3a (AutoAugment), rand-m9-mstd0.5-inc1 (RandAugment) or augmix-m5-w4-d2 (AugMix)
        #[arg(value_name = "POLICY")]
        #[serde(with = "serde_text::parsed")]
        aa: AutoAugment = "none", needs AUGMENTATION, in short help;
        /// Augmentation splits: differently augmented copies of each image, the first one clean
        #[arg(value_name = "N")]
        aug_splits: u32 = "0", within COPIES, needs AUGMENTATION;
        /// Repeated augmentation: copies of each image in the batches of all ranks
        #[arg(value_name = "N")]
        aug_repeats: u32 = "0", on resume SAMPLE_ORDER;
        /// Random erasing probability
        #[arg(value_name = "P")]
        reprob: f64 = "0", within PROBABILITY, needs AUGMENTATION, in short help;
        /// Random erasing mode
        #[arg(value_name = "MODE")]
        remode: EraseModeArg = "pixel" | "const", needs ERASING, needs AUGMENTATION;
        /// Random erasing: maximum number of boxes
        #[arg(value_name = "N")]
        recount: u32 = "1", within ERASED_BOXES, needs ERASING, needs AUGMENTATION;
        /// Do not erase the first augmentation split
        resplit: bool, needs ERASING_OR_SPLIT_BN, needs AUGMENTATION;
        /// Mixup alpha; 0: off
        #[arg(value_name = "ALPHA")]
        mixup: f64 = "0", within NON_NEGATIVE, in short help;
        /// CutMix alpha; 0: off
        #[arg(value_name = "ALPHA")]
        cutmix: f64 = "0", within NON_NEGATIVE, in short help;
        /// CutMix box sides, as fractions of the image; sets the CutMix alpha to 1
        #[arg(value_name = "FRACTION", num_args = 2)]
        cutmix_minmax: Vec<f64> = "none", within PROBABILITY;
        /// Probability of mixup or CutMix per batch, pair or image
        #[arg(value_name = "P")]
        mixup_prob: f64 = "1", within PROBABILITY, needs MIXING;
        /// Probability of CutMix where both are on
        #[arg(value_name = "P")]
        mixup_switch_prob: f64 = "0.5", within PROBABILITY, needs MIXUP_AND_CUTMIX;
        /// Images that share a random choice of mixup: batch, pair or elem; half: pair, with one mixed image per pair
        #[arg(value_name = "MODE")]
        #[serde(with = "serde_text::value_enum")]
        mixup_mode: MixupMode = "batch", needs MIXING;
        /// Epoch from which mixup and CutMix are off; 0: never
        #[arg(value_name = "N")]
        mixup_off_epoch: u32 = "0", needs MIXING;
        /// Training resize: random (bilinear or bicubic per image) or a filter
        #[arg(value_name = "FILTER")]
        #[serde(with = "serde_text::parsed")]
        train_interpolation: TrainInterpolation = "random", needs AUGMENTATION;
        /// Test-time augmentation: average the outputs of 2, 5 or 10 views of each validation image
        #[arg(value_name = "N")]
        tta: u32 = "0", in short help;
        /// Maximum random shift along each axis in pixels, in crop mode shift
        #[arg(value_name = "PIXELS")]
        shift: u32, within PIXELS, needs AUGMENTATION, needs SHIFT_CROP;
    }
    "Run" {
        /// Set of defaults: fornax, or timm for the defaults of timm's train.py in every option
        #[arg(value_name = "SET")]
        defaults: DefaultSet = "fornax", in short help;
        /// Random seed of initial weights, shuffling and augmentation
        #[arg(value_name = "N")]
        seed: u64 = "42", on resume RANDOM_NUMBERS, in short help;
        /// Train one run per seed, such as 1,2,3, or 0-2; 0..3 is 0, 1 and 2, without 3; in folders seed-N, and report mean and standard deviation of the best metric
        #[arg(value_name = "SEEDS")]
        #[serde(with = "serde_text::parsed")]
        seeds: Seeds = "one run", in short help;
        /// Metric that selects the best checkpoint
        #[arg(value_name = "METRIC")]
        eval_metric: EvalMetric = "top1", on resume RANKING, in short help;
        /// Validation interval: evaluate and save a checkpoint every N epochs, and after the last one
        #[arg(value_name = "N")]
        val_interval: u32 = "1", within AT_LEAST_ONE;
        /// Recovery interval: updates between recovery checkpoints; 0: none
        #[arg(value_name = "N")]
        recovery_interval: u64 = "0";
        /// Number of best checkpoints to keep as checkpoint-EPOCH
        #[arg(value_name = "N")]
        checkpoint_hist: u32 = "10", within AT_LEAST_ONE;
        /// Save a mosaic of the training batch at every log line
        save_images: bool;
        /// First epoch, counted from 0; it replaces the epoch of --resume
        #[arg(value_name = "N")]
        start_epoch: u32;
        /// Resume without the state of optimizer and loss scaling
        no_resume_opt: bool;
        /// Early stopping: evaluations without improvement of --eval-metric after which the run ends
        #[arg(value_name = "N")]
        early_stop_patience: u32 = "none", within AT_LEAST_ONE, in short help;
        /// Non-finite loss: end the run (stop), skip the update (skip), or return to the last checkpoint (rollback)
        #[arg(value_name = "POLICY")]
        on_nonfinite: NonfinitePolicy = "stop";
        /// Training batches per epoch (also --train-steps-per-epoch)
        #[arg(value_name = "N", alias = "train-steps-per-epoch")]
        train_batches_per_epoch: u32 = "all", within AT_LEAST_ONE, on resume SAMPLE_ORDER;
        /// Convolution algorithm on the CPU: auto (Winograd for 3x3 convolutions of stride 1 where the shape gains) or direct
        #[arg(value_name = "NAME")]
        conv_algo: ConvAlgo = "auto";
        /// Time cuDNN's convolution plans at the first use of a shape and use the fastest; resumed runs use the same
        cudnn_benchmark: bool = "on a CUDA device";
        /// Use deterministic cuDNN engines and NCCL algorithms only
        deterministic: bool = "true";
    }
}
