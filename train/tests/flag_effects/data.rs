//! Cases of the dataset's flags.
use crate::case::{Case, assert_effects, changes, check, plans};
use crate::observation::{Aspect::*, experiment};
use fornax::error::ErrorKind;

pub const CASES: &[Case] = &[
    plans("dataset", "both", "--dataset idx", "idx: 32 training images, 16 validation images, 4 classes"),
    plans(
        "data_dir",
        "",
        "--data-dir ROOT/photos",
        "photos: 16 training images, 8 validation images, 2 classes",
    ),
    plans(
        "train_split",
        "photos --batch-size 4",
        "--train-split other",
        ": 6 training images, 8 validation images",
    ),
    plans("val_split", "photos", "--val-split other", "16 training images, 6 validation images"),
    plans("val_fraction", "unsplit", "--val-fraction 0.5", "20 training images, 20 validation images"),
    plans(
        "class_map",
        "photos",
        "--class-map ROOT/classes.txt",
        "8 training images, 4 validation images, 2 classes",
    ),
    plans("input_key", "formats --batch-size 4", "--input-key .jpg", "4 training images"),
    plans("target_key", "list.csv --val-fraction 0.5", "--target-key number", "4 classes"),
    plans("input_img_mode", "photos", "--input-img-mode L", "input     16x16x1"),
    changes(
        "num_classes",
        "",
        "--num-classes 13",
        &[Plan, InitialWeights, InitialEvaluation, FirstLoss, Weights],
    ),
    plans("train_num_samples", "photos", "--train-num-samples 12", "12 training images, 8 validation images"),
    plans("val_num_samples", "photos", "--val-num-samples 3", "16 training images, 3 validation images"),
    changes(
        "epoch_repeats",
        "",
        "--epoch-repeats 2",
        &[Plan, TrainingBatches, Updates, LearningRates, Weights],
    ),
    changes(
        "clip_len",
        "videos --clip-len 2",
        "--clip-len 3",
        &[TrainingBatches, ValidationBatches, InitialEvaluation, FirstLoss, Weights],
    ),
    changes(
        "clip_sampling",
        "videos --clip-len 3",
        "--clip-sampling dense",
        &[TrainingBatches, ValidationBatches, InitialEvaluation, FirstLoss, Weights],
    ),
    changes(
        "exif_orientation",
        "turned --batch-size 17",
        "--exif-orientation",
        &[TrainingBatches, FirstLoss, Weights],
    ),
    changes("gray16", "deep --batch-size 17", "--gray16 saturate", &[TrainingBatches, FirstLoss, Weights]),
    check("bad_image", bad_images_are_replaced_skipped_or_an_error),
    check("max_bad", more_bad_images_end_the_run),
    changes(
        "batch_size",
        "",
        "--batch-size 16",
        &[Plan, TrainingBatches, FirstLoss, Updates, LearningRates, Weights],
    ),
];

fn bad_images_are_replaced_skipped_or_an_error() {
    let first_images = |arguments: &str| {
        let mut run = experiment(&format!("broken --batch-size 16 {arguments}"));
        let batch = run.build_train_loader().and_then(|loader| loader.batch(0, 0));
        batch.map(|batch| batch.images.dims()[0])
    };
    assert_eq!(first_images("--max-bad 0.2").expect("replaced"), 16);
    assert_eq!(first_images("--bad-image skip --max-bad 0.2").expect("left out"), 14);
    let error = first_images("--bad-image error").expect_err("two images are truncated");
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("0.png"), "{error}");
}

fn more_bad_images_end_the_run() {
    let train = |arguments: &str| experiment(&format!("broken {arguments}")).run().map(drop);
    train("--max-bad 0.2").expect("2 of 16 images are replaced");
    let error = train("--max-bad 0.1").expect_err("2 of 16 images are more than a tenth");
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("images are bad: 2 of 16"), "{error}");
}

#[test]
fn data_flags_have_their_effects() {
    assert_effects(CASES);
}
