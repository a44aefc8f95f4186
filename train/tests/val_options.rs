//! Options of `fornax val`: ReaL labels, bad images, and options without effect.
mod common;

use common::{run, stderr, succeed};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Eight images in the classes a, b and c.
fn images() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/validate/images");
    let list =
        |folder: PathBuf| fs::read_dir(folder).expect("lists").map(|entry| entry.expect("reads").path());
    let mut paths: Vec<PathBuf> = list(root).flat_map(list).collect();
    paths.sort();
    paths
}

/// Folder with `photos`, the images under the names of ImageNet's validation split in reverse order, and the weights of a model with 8 classes.
fn dataset() -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().expect("a folder");
    let images = images();
    let copies = images.iter().enumerate().map(|(i, image)| {
        let class = image.parent().and_then(Path::file_name).expect("a class");
        let (number, extension) = (images.len() - i, image.extension().expect("an extension"));
        let name = format!("ILSVRC2012_val_{number:08}.{}", extension.display());
        let copy = folder.path().join("photos").join(class).join(name);
        fs::create_dir_all(copy.parent().expect("a folder")).expect("creates");
        fs::copy(image, &copy).expect("copies");
        copy
    });
    let copies: Vec<PathBuf> = copies.collect();
    assert_eq!(copies.len(), 8);
    succeed(folder.path(), "models save resnet8 w.safetensors --num-classes 8");
    (folder, copies)
}

const VAL: &str = "val photos --checkpoint w.safetensors --img-size 16";

fn object(folder: &Path, arguments: &str) -> Value {
    serde_json::from_str(&succeed(folder, arguments)).expect("JSON")
}

/// Checks that a command fails with this exit code and a message with these parts.
#[track_caller]
fn assert_fails(folder: &Path, arguments: &str, code: i32, parts: &[&str]) {
    let output = run(folder, arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments}: {text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
}

#[test]
fn real_labels_replace_the_targets_of_the_accuracy() {
    let (folder, copies) = dataset();
    let root = folder.path();
    let predicted = succeed(root, "predict photos --weights w.safetensors --img-size 16 --top-k 8 --json");
    let mut labels: Vec<Vec<u64>> = vec![vec![]; 8];
    for line in predicted.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let image = line["image"].as_str().expect("a path");
        let number: usize = image[image.len() - 13..]
            .chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .expect("a number");
        let class = |rank: usize| line["topk"][rank]["class"].as_u64().expect("a class");
        labels[number - 1] = match number {
            // Right.
            1 => vec![class(7), class(0)],
            2 => vec![class(0)],
            // Among the first five.
            3 => vec![class(4), class(6)],
            // Not counted.
            4 | 5 => vec![],
            // Wrong.
            _ => vec![class(5), class(7)],
        };
    }
    let write = |labels: &[Vec<u64>]| {
        fs::write(root.join("real.json"), serde_json::to_string(labels).expect("JSON")).expect("writes");
    };
    write(&labels);
    let plain = object(root, &format!("{VAL} --json"));
    let real = object(root, &format!("{VAL} --json --real-labels real.json --results-file r.csv"));
    let number = |key: &str| real[key].as_f64().expect("a number");
    assert_eq!(real["real_images"], 6);
    assert!((number("top1") - 200.0 / 6.0).abs() < 1e-9 && (number("top5") - 50.0).abs() < 1e-9, "{real}");
    assert_eq!((&real["loss"], &real["images"]), (&plain["loss"], &plain["images"]));
    assert!(fs::read_to_string(root.join("r.csv")).expect("reads").contains(",33.3333,66.6667,50.0,50.0,"));
    let text = succeed(root, &format!("{VAL} --real-labels real.json"));
    assert!(
        text.contains("top-1 33.33%  top-5 50.00%") && text.contains("ReaL labels of 6 images"),
        "{text}"
    );
    // The labels follow the names of the images that are evaluated.
    succeed(root, &format!("{VAL} --real-labels real.json --num-samples 7"));

    write(&labels[..3]);
    assert_fails(
        root,
        &format!("{VAL} --real-labels real.json"),
        2,
        &["has labels of 3 images", "_val_0000000"],
    );
    write(&vec![vec![]; 8]);
    assert_fails(
        root,
        &format!("{VAL} --real-labels real.json"),
        2,
        &["no image of the dataset has ReaL labels"],
    );
    fs::write(root.join("real.json"), "{}").expect("writes");
    assert_fails(root, &format!("{VAL} --real-labels real.json"), 2, &["cannot be read", "real.json"]);
    write(&labels);
    fs::rename(&copies[0], copies[0].with_file_name("cat.jpg")).expect("renames");
    assert_fails(
        root,
        &format!("{VAL} --real-labels real.json"),
        2,
        &["cat.jpg", "not named ILSVRC2012_val_NNNNNNNN"],
    );
}

#[test]
fn bad_images_are_skipped_and_counted() {
    let (folder, copies) = dataset();
    let root = folder.path();
    let truncate = |path: &Path| {
        let bytes = fs::read(path).expect("reads");
        fs::write(path, &bytes[..bytes.len() / 2]).expect("writes");
    };
    truncate(&copies[2]);
    let name = |index: usize| copies[index].file_name().expect("a name").to_string_lossy().into_owned();
    let output = run(root, &format!("{VAL} --json"));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("warning: 1 bad image skipped:") && stderr(&output).contains(&name(2)));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&found["images"], &found["skipped"]), (&7.into(), &1.into()));
    assert!(succeed(root, VAL).contains("7 images (1 image skipped) of"));
    // The metrics are the same as without the image, and labels follow the other images.
    fs::write(root.join("real.json"), "[[0],[1],[2],[3],[4],[5],[6],[7]]").expect("writes");
    let skipped = object(root, &format!("{VAL} --json --real-labels real.json"));
    let bytes = fs::read(&copies[2]).expect("reads");
    fs::remove_file(&copies[2]).expect("removes");
    let without = object(root, &format!("{VAL} --json --real-labels real.json"));
    for key in ["loss", "top1", "top5", "real_images"] {
        assert_eq!(skipped[key], without[key], "{key}");
    }
    fs::write(&copies[2], bytes).expect("writes");
    // A damaged image behind a good header.
    assert_fails(
        root,
        &format!("{VAL} --bad-image error"),
        3,
        &["1 validation image cannot be used", &name(2)],
    );
    fs::write(&copies[5], b"<html>").expect("writes");
    fs::write(&copies[7], b"").expect("writes");
    assert_fails(root, VAL, 3, &["too many validation images are bad", "--max-bad"]);
    assert_eq!(object(root, &format!("{VAL} --max-bad 0.5 --bad-image skip --json"))["skipped"], 3);
    let parts = ["2 validation images cannot be used", &name(5), &name(7), "--bad-image"];
    assert_fails(root, &format!("{VAL} --bad-image error"), 3, &parts);
}

#[test]
fn options_without_effect_are_ignored_with_one_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    succeed(root, "models save resnet8 w.safetensors --num-classes 10 --in-chans 1");
    let val = "val digits --checkpoint w.safetensors w.safetensors --json";
    let options = "--seed 1 --lr 0.1 --opt adamw --train-split other --pretrained --log-freq 5 --max-bad 0.1 --use-train-size --results-format json --exif-orientation --mixup 0";
    let output = run(root, &format!("{val} {options}"));
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    let warnings: Vec<&str> = text.lines().filter(|line| line.contains("warning")).collect();
    let [warning] = warnings[..] else { panic!("one warning is expected: {text}") };
    for part in [
        "warning: without effect, and ignored: ",
        "--seed (an evaluation takes no random numbers)",
        " (an evaluation does not depend on it)",
        "--lr",
        "--opt",
        "--train-split",
        "--pretrained (--checkpoint is given)",
        "--log-freq (only the result is printed)",
        "--max-bad (the dataset has no image files)",
        "--use-train-size (the weights say their input)",
        "--results-format (--results-file is not given)",
        "--exif-orientation (the images of this dataset are not files with an orientation)",
    ] {
        assert!(warning.contains(part), "{part:?} is missing in {warning}");
    }
    assert!(!warning.contains("--mixup"), "a default has no effect anyway: {warning}");
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 2);
    for wrong in ["--lr -1", "--no-such-option 1", "--opt none"] {
        assert_fails(root, &format!("{val} {wrong}"), 2, &[wrong.split(' ').next().expect("a flag")]);
    }
}

/// The images of digits and IDX files have no orientation.
#[test]
fn weights_trained_with_exif_orientation_are_evaluated_on_images_in_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    for format in ["folder", "idx"] {
        succeed(root, &format!("datasets export digits --format {format} --output {format}"));
    }
    succeed(
        root,
        "train folder --model resnet8 --img-size 8 --in-chans 1 --no-aug --exif-orientation --epochs 1 --warmup-epochs 0 \
         --batch-size 128 --progress none --output o --experiment a",
    );
    succeed(root, "ckpt strip o/a/checkpoints/last.safetensors -o w.safetensors");
    for data in ["folder", "digits", "idx", "digits --no-exif-orientation"] {
        for weights in ["o/a", "w.safetensors"] {
            let output = run(root, &format!("val {data} --checkpoint {weights} --json"));
            assert!(output.status.success(), "{data} {weights}: {}", stderr(&output));
            assert!(!stderr(&output).contains("exif"), "{data} {weights}: {}", stderr(&output));
        }
    }
}
