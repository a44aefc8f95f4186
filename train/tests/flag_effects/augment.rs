//! Cases of the augmentation's flags.
use crate::case::{Case, assert_effects, changes};
use crate::observation::Aspect::{self, *};

/// Other training images.
const TRAIN: &[Aspect] = &[TrainingBatches, FirstLoss, Weights];

pub const CASES: &[Case] = &[
    changes("hflip", "photos", "--hflip 1", TRAIN),
    changes("no_aug", "photos", "--no-aug", TRAIN),
    changes("train_crop_mode", "photos", "--train-crop-mode rkrc", TRAIN),
    changes("scale", "photos", "--scale 0.5 0.6", TRAIN),
    changes("ratio", "photos", "--ratio 0.4 0.5", TRAIN),
    changes("vflip", "photos", "--vflip 0.5", TRAIN),
    changes("color_jitter", "photos", "--color-jitter 0.1", TRAIN),
    changes("color_jitter_prob", "photos", "--color-jitter-prob 0.5", TRAIN),
    changes("grayscale_prob", "photos", "--grayscale-prob 0.5", TRAIN),
    changes("gaussian_blur_prob", "photos", "--gaussian-blur-prob 0.5", TRAIN),
    changes("aa", "photos", "--aa rand-m9-mstd0.5", TRAIN),
    changes("aug_splits", "photos", "--aug-splits 2", TRAIN),
    changes("aug_repeats", "photos", "--aug-repeats 2", TRAIN),
    changes("reprob", "photos", "--reprob 0.5", TRAIN),
    changes("remode", "photos --reprob 0.5", "--remode const", TRAIN),
    changes("recount", "photos --reprob 0.5", "--recount 3", TRAIN),
    changes("resplit", "photos --reprob 0.5 --aug-splits 2", "--resplit", TRAIN),
    changes("mixup", "photos", "--mixup 0.5", TRAIN),
    changes("cutmix", "photos", "--cutmix 1", TRAIN),
    changes("cutmix_minmax", "photos --cutmix 1", "--cutmix-minmax 0.2 0.3", TRAIN),
    changes("mixup_prob", "photos --mixup 0.5", "--mixup-prob 0.3", TRAIN),
    changes("mixup_switch_prob", "photos --mixup 0.5 --cutmix 1", "--mixup-switch-prob 1", TRAIN),
    changes("mixup_mode", "photos --mixup 0.5", "--mixup-mode elem", TRAIN),
    // The first epoch is mixed.
    changes("mixup_off_epoch", "photos --mixup 0.5", "--mixup-off-epoch 1", &[TrainingBatches, Weights]),
    changes("train_interpolation", "photos", "--train-interpolation nearest", TRAIN),
    changes("tta", "photos", "--tta 2", &[ValidationBatches, InitialEvaluation]),
    changes("shift", "", "--shift 3", TRAIN),
];

#[test]
fn augmentation_flags_have_their_effects() {
    assert_effects(CASES);
}
