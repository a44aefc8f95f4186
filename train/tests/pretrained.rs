//! `fornax train` and `fornax predict` with initial and pretrained weights.
mod common;
#[cfg(feature = "download")]
#[path = "common/server.rs"]
mod server;

use common::{run, stderr, succeed};
use std::fs;
use std::path::Path;

const QUICK: &str =
    "train --epochs 1 --batch-size 256 --warmup-epochs 0 --progress none --output o --print-hash";

fn hash(folder: &Path, arguments: &str) -> String {
    let stdout = succeed(folder, &format!("{QUICK} {arguments}"));
    stdout.lines().last().expect("a line").to_string()
}

#[track_caller]
fn assert_rejected(folder: &Path, arguments: &str, code: i32, parts: &[&str]) {
    let output = run(folder, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments}: {}", stderr(&output));
    for part in parts {
        assert!(stderr(&output).contains(part), "{arguments}: {part:?} is missing in\n{}", stderr(&output));
    }
}

/// A run's own initial weights, loaded from a file, reproduce the run; other weights do not.
#[test]
fn training_starts_from_weights_of_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let save = "models save resnet8 --num-classes 10 --in-chans 1";
    succeed(folder.path(), &format!("{save} same.safetensors --seed 42"));
    fs::create_dir(folder.path().join("other")).expect("creates");
    succeed(folder.path(), &format!("{save} other/w.safetensors --seed 5"));
    let fresh = hash(folder.path(), "");
    assert_eq!(fresh, hash(folder.path(), "--initial-checkpoint same.safetensors"));
    assert_eq!(fresh, hash(folder.path(), "--pretrained-path same.safetensors"));
    let other = hash(folder.path(), "--initial-checkpoint other --experiment a");
    assert_ne!(fresh, other);

    // A checkpoint also serves as initial weights, and a resumed run does not reload them.
    let plan =
        succeed(folder.path(), "train --dry-run --initial-checkpoint o/a/checkpoints/last.safetensors");
    assert!(plan.contains("last.safetensors: ") && plan.contains("tensors loaded"), "{plan}");
    let last = folder.path().join("o/a/checkpoints/last.safetensors");
    let mut damaged = fs::read(&last).expect("reads");
    let middle = damaged.len() / 4;
    damaged[middle] ^= 1;
    fs::write(folder.path().join("damaged.safetensors"), damaged).expect("writes");
    assert_rejected(
        folder.path(),
        "train --initial-checkpoint damaged.safetensors",
        4,
        &["damaged.safetensors", "CRC32C"],
    );
    fs::remove_dir_all(folder.path().join("other")).expect("removes");
    let resumed = succeed(folder.path(), "train --resume o/a --progress none --print-hash");
    assert_eq!(resumed.lines().last(), Some(other.as_str()));
}

#[test]
fn other_classes_and_channels_are_adapted_and_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), "models save resnet8 w.safetensors --num-classes 7 --in-chans 3");
    let plan = succeed(folder.path(), "train --dry-run --pretrained-path w.safetensors");
    for part in [
        "weights   w.safetensors: ",
        "conv1.weight was adapted from 3 to 1 input channels",
        "fc.weight is for 7 classes, the model has 10: it keeps its initial value",
        "pretrained_path: \"w.safetensors\"",
    ] {
        assert!(plan.contains(part), "{part} in {plan}");
    }
    let cases: [(&str, i32, &[&str]); 5] = [
        ("--initial-checkpoint w.safetensors", 4, &["w.safetensors", "fc.weight is f32[7, 64]"]),
        (
            "--initial-checkpoint w.safetensors --in-chans 3",
            4,
            &["fc.weight is f32[7, 64]", "--reset-classifier", "--pretrained-path"],
        ),
        ("--initial-checkpoint none", 4, &["none", "no such file or folder", "check the path"]),
        ("--pretrained-path hf-hub:nobody", 2, &["--pretrained-path", "ORGANISATION/NAME"]),
        ("--pretrained", 2, &["no published weights of resnet8"]),
    ];
    for (arguments, code, parts) in cases {
        assert_rejected(folder.path(), &format!("train {arguments}"), code, parts);
    }
    let output = run(folder.path(), "train --dry-run --reset-classifier");
    assert!(
        output.status.success() && stderr(&output).contains("--reset-classifier (no weights are loaded)")
    );
    assert!(!folder.path().join("output").exists(), "no files are left behind");
}

#[test]
fn reset_classifier_keeps_the_initial_classifier() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), "models save resnet8 seven.safetensors --num-classes 7 --in-chans 1 --seed 5");
    succeed(folder.path(), "models save resnet8 ten.safetensors --num-classes 10 --in-chans 1 --seed 5");
    let plan = |flags: &str| succeed(folder.path(), &format!("train --dry-run {flags}"));
    for option in ["--initial-checkpoint", "--pretrained-path"] {
        let text = plan(&format!("{option} seven.safetensors --reset-classifier"));
        assert!(
            text.contains("fc.weight is re-initialised") && text.contains("fc.bias is re-initialised"),
            "{text}"
        );
    }
    // Of the same number of classes too.
    let loaded = hash(folder.path(), "--initial-checkpoint ten.safetensors");
    assert_ne!(loaded, hash(folder.path(), "--initial-checkpoint ten.safetensors --reset-classifier"));
}

/// Published weights are downloaded from the hub at `HF_ENDPOINT`, once.
#[cfg(feature = "download")]
#[test]
fn published_weights_are_downloaded_from_the_hub() {
    use server::{Response, Server};
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), "models save resnet18 w.safetensors --seed 7");
    let body = fs::read(folder.path().join("w.safetensors")).expect("reads");
    let server = Server::start(move |_| {
        Response { body: body.clone(), ..Response::status(200) }
            .header("x-repo-commit", "0123456789abcdef0123456789abcdef01234567")
            .header("etag", "\"aabbcc\"")
    });
    let predict = |endpoint: &str, offline: &str| {
        let image = format!("{}/../tests/golden/images/rgb.png", env!("CARGO_MANIFEST_DIR"));
        common::command(folder.path(), &format!("predict {image} --model resnet18"))
            .env("HF_ENDPOINT", endpoint)
            .env("HF_HOME", folder.path().join("hf"))
            .env("HF_HUB_OFFLINE", offline)
            .env_remove("HF_HUB_CACHE")
            .env_remove("HF_TOKEN")
            .output()
            .expect("starts")
    };
    let output = predict(&server.url, "1");
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("HF_HUB_OFFLINE"), "{}", stderr(&output));
    let output = predict(&server.url, "");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(server.requests()[0].header("authorization"), None, "no token is configured");
    assert_eq!(server.requests()[0].path, "/timm/resnet18.a1_in1k/resolve/main/model.safetensors");
    let again = predict("http://127.0.0.1:9", "1");
    assert_eq!((again.status.code(), again.stdout), (Some(0), output.stdout));
    assert_eq!(server.requests().len(), 2, "HEAD and GET");
}
