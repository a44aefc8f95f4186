//! Cases of the flags of the model, its input and its initial weights.
use crate::case::{Case, assert_effects, changes, check, plans, tested};
use crate::common::command;
use crate::observation::Aspect::{self, *};
use std::fs;

/// Another classifier.
const HEAD: &[Aspect] = &[InitialWeights, InitialEvaluation, FirstLoss, Weights];
/// Other images in training and validation.
const IMAGES: &[Aspect] = &[TrainingBatches, ValidationBatches, InitialEvaluation, FirstLoss, Weights];
/// Another forward pass of the same weights.
const FORWARD: &[Aspect] = &[InitialEvaluation, FirstLoss, Weights];

pub const CASES: &[Case] = &[
    // The last batch norm of a block starts with zero weights, so that both models start as the same function.
    changes("model", "", "--model resnet20", &[Plan, InitialWeights, Weights]),
    check("pretrained", published_weights_are_loaded),
    tested("pretrained_path", "pretrained.rs", "other_classes_and_channels_are_adapted_and_reported"),
    tested("initial_checkpoint", "pretrained.rs", "training_starts_from_weights_of_a_file"),
    tested("reset_classifier", "pretrained.rs", "reset_classifier_keeps_the_initial_classifier"),
    plans("img_size", "photos", "--img-size 12", "input     12x12x3"),
    plans("input_size", "photos", "--input-size 1 12 20", "input     12x20x1"),
    plans("in_chans", "photos", "--in-chans 1", "input     16x16x1"),
    changes("mean", "photos", "--mean 0.1 0.2 0.3", IMAGES),
    changes("std", "photos", "--std 0.5", IMAGES),
    changes("crop_pct", "photos", "--crop-pct 0.5", &[ValidationBatches, InitialEvaluation]),
    changes("crop_mode", "photos", "--crop-mode squash", &[ValidationBatches, InitialEvaluation]),
    // Without augmentation, training images are resized as in the evaluation.
    changes(
        "interpolation",
        "photos --no-aug",
        "--interpolation nearest",
        &[TrainingBatches, ValidationBatches, InitialEvaluation, FirstLoss, Weights],
    ),
    changes("model_kwargs", "", "--model-kwargs act_layer=silu", FORWARD),
    changes("drop", "", "--drop 0.5", &[FirstLoss, Weights]),
    // Blocks start as the identity, see --model.
    changes("drop_path", "", "--drop-path 0.5", &[Weights]),
    changes("drop_connect", "", "--drop-connect 0.5", &[Weights]),
    changes("drop_block", "", "--drop-block 0.5", &[Weights]),
    changes("gp", "", "--gp max", FORWARD),
    changes("head_init_scale", "", "--head-init-scale 0.5", HEAD),
    changes("head_init_bias", "", "--head-init-bias -3", HEAD),
    changes("bn_momentum", "", "--bn-momentum 0.3", &[RunningStatistics, Evaluations]),
    changes("bn_eps", "", "--bn-eps 0.1", FORWARD),
    changes("bn_tf", "", "--bn-tf", FORWARD),
    changes("split_bn", "photos --aug-splits 2", "--split-bn", &[Plan, InitialWeights, FirstLoss, Weights]),
];

/// Published weights are those of the hub's cache.
fn published_weights_are_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("hf/hub/models--timm--mobilenetv3_small_100.lamb_in1k");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    fs::create_dir_all(model.join("refs")).expect("creates");
    fs::create_dir_all(model.join("snapshots").join(commit)).expect("creates");
    fs::write(model.join("refs/main"), commit).expect("writes");
    let run = |arguments: &str| {
        let mut command = command(folder.path(), arguments);
        command
            .env("HF_HOME", folder.path().join("hf"))
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("HF_HUB_CACHE");
        let output = command.output().expect("starts");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let file = model.join("snapshots").join(commit).join("model.safetensors");
    run(&format!("models save mobilenetv3_small_100 {} --seed 7", file.display()));
    let train = "train --dry-run --model mobilenetv3_small_100 --in-chans 3 --img-size 32";
    assert!(!run(train).contains("\nweights "));
    let plan = run(&format!("{train} --pretrained"));
    assert!(plan.contains("\nweights   hf-hub:timm/mobilenetv3_small_100.lamb_in1k: "), "{plan}");
}

#[test]
fn model_flags_have_their_effects() {
    assert_effects(CASES);
}
