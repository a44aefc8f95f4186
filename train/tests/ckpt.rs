//! `fornax ckpt`: contents, verification, comparison, averages and weights of checkpoints.
mod common;

use common::{run, stderr, succeed};
use fornax::engine::{DType, Tensor};
use fornax::nn::state_dict::{from_safetensors, to_safetensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const TRAIN: &str = "train --batch-size 256 --warmup-epochs 0 --progress none --output out";

fn json(stdout: &str) -> Value {
    serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON")
}

fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    from_safetensors(&fs::read(path).expect("reads")).expect("safetensors").0
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).and_then(|t| t.to_vec::<f64>()).expect("numbers")
}

fn write(path: &Path, tensors: &[(&str, Tensor)]) {
    let tensors: Vec<(String, Tensor)> =
        tensors.iter().map(|(name, t)| (name.to_string(), t.clone())).collect();
    fs::write(path, to_safetensors(&tensors, None).expect("writes")).expect("writes");
}

fn floats(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, [values.len()]).expect("memory")
}

#[test]
fn info_shows_model_progress_and_tensors() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), &format!("{TRAIN} --epochs 2 --model-ema --experiment a"));
    let text = succeed(folder.path(), "ckpt info out/a/checkpoints/last.safetensors");
    for part in [
        "Fornax checkpoint",
        "resnet8, 10 classes, input 8x8x1",
        "classes     0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        "2 epochs, 10 updates",
        "EMA",
        "optimizer",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let object =
        json(&succeed(folder.path(), "ckpt info out/a/checkpoints/last.safetensors --json --tensors"));
    assert_eq!(object["checkpoint"]["epoch"], 2);
    assert_eq!(object["checkpoint"]["settings"]["model"], "resnet8");
    assert_eq!(object["tensors"]["weights"], object["tensors"]["EMA"]);
    let listed = object["list"].as_array().expect("a list").len() as u64;
    let counts = ["weights", "EMA", "optimizer"]
        .map(|name| object["tensors"][name]["count"].as_u64().expect("a count"));
    assert_eq!(listed, counts.iter().sum::<u64>());
    // A run folder stands for its best checkpoint.
    let best = json(&succeed(folder.path(), "ckpt info out/a --json"));
    assert!(best["path"].as_str().expect("a path").ends_with("best.safetensors"), "{best}");
}

#[test]
fn info_lists_the_tensors_of_other_files() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), "models save resnet8 w.safetensors");
    let text = succeed(folder.path(), "ckpt info w.safetensors --tensors");
    assert!(text.contains("format   safetensors") && text.contains("fc.weight"), "{text}");
}

#[test]
fn verify_finds_every_kind_of_damage() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), &format!("{TRAIN} --epochs 1 --experiment a"));
    let last = folder.path().join("out/a/checkpoints/last.safetensors");
    let good = fs::read(&last).expect("reads");
    let text = succeed(folder.path(), "ckpt verify out/a");
    assert!(
        text.lines().count() >= 2 && text.lines().all(|line| line.contains("matching checksums")),
        "{text}"
    );

    let state = good.windows(7).position(|w| w == b"version").expect("the state");
    let flipped = |at: usize| {
        let mut bad = good.clone();
        bad[at] ^= 1;
        bad
    };
    for (bad, why) in [
        (good[..good.len() - 1].to_vec(), "truncated"),
        (good[..5].to_vec(), "5 bytes"),
        (flipped(good.len() - 1), "CRC32C"),
        (flipped(state + 2), "CRC32C"),
        ([&good[..], b"x"].concat(), "extra bytes"),
    ] {
        // Another checkpoint of the same state is a link to this file.
        fs::remove_file(&last).expect("removes");
        fs::write(&last, bad).expect("writes");
        let output = run(folder.path(), "ckpt verify out/a/checkpoints/last.safetensors --json");
        assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
        let line = json(&String::from_utf8(output.stdout).expect("UTF-8"));
        assert_eq!(line["ok"], false);
        assert!(line["error"].as_str().expect("a reason").contains(why), "{line}");
    }
    // One damaged file among several.
    let output = run(folder.path(), "ckpt verify out/a");
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("1 of "), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("best.safetensors: ok"));
}

#[test]
fn verify_rejects_values_that_are_not_finite() {
    let folder = tempfile::tempdir().expect("a folder");
    write(&folder.path().join("ok.safetensors"), &[("a", floats(&[1.0, 2.0]))]);
    write(&folder.path().join("nan.safetensors"), &[("a", floats(&[1.0, f32::NAN, f32::INFINITY]))]);
    let text = succeed(folder.path(), "ckpt verify ok.safetensors");
    assert!(text.contains("1 tensors; the file has no checksums"), "{text}");
    let output = run(folder.path(), "ckpt verify nan.safetensors");
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("2 of 3 elements of a are not finite"), "{}", stderr(&output));
}

#[test]
fn diff_counts_differing_elements_and_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, tensors: &[(&str, Tensor)]| write(&folder.path().join(name), tensors);
    write(
        "a.safetensors",
        &[("same", floats(&[1.0, f32::NAN])), ("x", floats(&[1.0, 2.0, 3.0])), ("old", floats(&[1.0]))],
    );
    write(
        "b.safetensors",
        &[("same", floats(&[1.0, f32::NAN])), ("x", floats(&[1.0, 2.5, 2.0])), ("new", floats(&[1.0]))],
    );
    let object = json(&succeed(folder.path(), "ckpt diff a.safetensors b.safetensors --json"));
    assert_eq!(object["equal"], false);
    assert_eq!(
        object["tensors"],
        serde_json::json!([{ "name": "x", "different": 2, "elements": 3, "max": 1.0, "relative": 1.0 / 3.0 }])
    );
    assert_eq!((&object["only_a"][0], &object["only_b"][0]), (&"old".into(), &"new".into()));
    let text = succeed(folder.path(), "ckpt diff a.safetensors b.safetensors");
    assert!(
        text.contains("only in a.safetensors: old") && text.contains("1 of 2 common tensors differ"),
        "{text}"
    );
    let text = succeed(folder.path(), "ckpt diff a.safetensors a.safetensors");
    assert_eq!(text, "all 3 tensors are equal\n");

    succeed(folder.path(), &format!("{TRAIN} --epochs 1 --experiment a --lr 0.1"));
    succeed(folder.path(), &format!("{TRAIN} --epochs 1 --experiment b --lr 0.2"));
    let object = json(&succeed(folder.path(), "ckpt diff out/a out/b --json"));
    assert_eq!(object["settings"]["lr"], serde_json::json!([0.1, 0.2]));
}

#[test]
fn diff_ranks_by_relative_difference_and_counts_counters_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let counter = |n: i64| Tensor::from_slice(&[n], [1]).expect("memory");
    for (name, large, small, batches) in [("a", 1000.0, 1.0, 5), ("b", 1001.0, 1.5, 900)] {
        let tensors = [
            ("large", floats(&[large])),
            ("small", floats(&[small])),
            ("bn.num_batches_tracked", counter(batches)),
        ];
        write(&folder.path().join(format!("{name}.safetensors")), &tensors);
    }
    let text = succeed(folder.path(), "ckpt diff a.safetensors b.safetensors");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].starts_with("small") && lines[2].starts_with("large"), "{text}");
    assert!(!text.contains("num_batches_tracked") && text.contains("1 counters of batches"), "{text}");
}

#[test]
fn average_is_the_mean_of_the_best_checkpoints() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), &format!("{TRAIN} --epochs 2 --experiment a --lr 0.02"));
    succeed(folder.path(), &format!("{TRAIN} --epochs 2 --experiment b --lr 0.2 --seed 3"));
    let checkpoints = ["a", "b"].map(|run| format!("out/{run}/checkpoints/last.safetensors"));
    succeed(folder.path(), &format!("ckpt average {} -o mean.safetensors", checkpoints.join(" ")));
    let mean = tensors(&folder.path().join("mean.safetensors"));
    let [a, b] = checkpoints.each_ref().map(|path| tensors(&folder.path().join(path)));
    for (name, tensor) in &mean {
        assert_eq!(tensor.dtype(), a[name].dtype(), "{name}");
        for ((mean, a), b) in values(tensor).iter().zip(values(&a[name])).zip(values(&b[name])) {
            assert!(
                (mean - (a + b) / 2.0).abs() <= 1e-6 * (1.0 + mean.abs()),
                "{name}: {mean} of {a} and {b}"
            );
        }
    }
    assert!(mean.keys().all(|name| !name.starts_with("optimizer/")));
    assert!(a.keys().filter(|name| !name.starts_with("optimizer/")).eq(mean.keys()));

    // The best one alone is itself.
    let loss = |run: &str| {
        let object = json(&succeed(
            folder.path(),
            &format!("ckpt info out/{run}/checkpoints/last.safetensors --json"),
        ));
        object["checkpoint"]["history"][1]["eval_loss"].as_f64().expect("a loss")
    };
    let best = if loss("a") < loss("b") { &a } else { &b };
    let average = format!("ckpt average {} -n 1 --metric loss -o best.safetensors", checkpoints.join(" "));
    succeed(folder.path(), &average);
    for (name, tensor) in tensors(&folder.path().join("best.safetensors")) {
        assert_eq!(values(&tensor), values(&best[&name]), "{name}");
    }
}

/// Recovery checkpoints within an epoch have the metrics of the epoch before.
#[test]
fn average_of_the_best_leaves_out_states_that_were_not_evaluated() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), &format!("{TRAIN} --epochs 2 --recovery-interval 3 --experiment a"));
    let shown = succeed(folder.path(), "ckpt average out/a -n 5 -o mean.safetensors");
    assert!(shown.contains("epoch 0") && shown.contains("epoch 1") && !shown.contains("recovery"), "{shown}");
    assert!(shown.contains("average of 2 files"), "{shown}");
    assert!(succeed(folder.path(), "ckpt average out/a -o all.safetensors").contains("recovery"));
    let output = run(folder.path(), "ckpt average out/a --metric loss -o all.safetensors");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("ignored: --metric (--top is not given"), "{}", stderr(&output));
}

#[test]
fn average_of_different_models_or_onto_an_input_is_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), "models save resnet8 a.safetensors");
    succeed(folder.path(), "models save resnet20 b.safetensors");
    for (arguments, code, part) in [
        ("ckpt average a.safetensors b.safetensors -o c.safetensors", 4, "different models"),
        ("ckpt average a.safetensors -o a.safetensors", 2, "would replace an input"),
        ("ckpt strip a.safetensors -o a.safetensors", 2, "would replace an input"),
        ("ckpt average a.safetensors b.safetensors -n 1 -o c.safetensors", 2, "no validation metric"),
        ("ckpt average a.safetensors --use-ema -o c.safetensors", 4, "no EMA weights"),
        ("ckpt strip a.safetensors -o none/c.safetensors", 7, "the folder none does not exist"),
    ] {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{arguments}: {}", stderr(&output));
        assert!(!folder.path().join("c.safetensors").exists());
    }
}

#[test]
fn strip_keeps_the_weights_of_model_or_ema() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), &format!("{TRAIN} --epochs 1 --model-ema --model-ema-decay 0.5 --experiment a"));
    let all = tensors(&folder.path().join("out/a/checkpoints/last.safetensors"));
    for (flag, prefix) in [("", ""), ("--use-ema", "ema/")] {
        let arguments = format!("ckpt strip out/a/checkpoints/last.safetensors -o w.safetensors {flag}");
        succeed(folder.path(), &arguments);
        let stripped = tensors(&folder.path().join("w.safetensors"));
        assert!(stripped.contains_key("fc.weight") && stripped.keys().all(|name| !name.contains('/')));
        for (name, tensor) in &stripped {
            assert_eq!(values(tensor), values(&all[&format!("{prefix}{name}")]), "{name}");
        }
    }
    // The file trains and predicts as any other weights.
    succeed(folder.path(), "train --dry-run --initial-checkpoint w.safetensors");
}

/// Writes a dataset of two classes, with an image that has an EXIF orientation, to `photos` in a folder.
fn write_photos(folder: &Path) {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/images");
    for (i, name) in ["exif_rotated.jpg", "photo_q90.jpg", "gray.jpg", "rgb.png", "gray.png", "rgba.png"]
        .iter()
        .enumerate()
    {
        for split in ["train", "validation"] {
            let class = folder.join("photos").join(split).join(["left", "right"][i % 2]);
            fs::create_dir_all(&class).expect("creates");
            fs::copy(images.join(name), class.join(name)).expect("copies");
        }
    }
}

/// The weights that `strip`, `average` and `models save` write carry their model, classes and input.
#[test]
fn weights_keep_their_model_classes_and_input() {
    let folder = tempfile::tempdir().expect("a folder");
    write_photos(folder.path());
    succeed(
        folder.path(),
        "train photos --model resnet8 --img-size 12 --epochs 2 --batch-size 4 --warmup-epochs 0 --mean 0.4 --std 0.3 --crop-pct 0.8 \
         --crop-mode squash --interpolation bilinear --exif-orientation --gp max --progress none --output out --experiment a",
    );
    let last = "out/a/checkpoints/last.safetensors";
    succeed(folder.path(), &format!("ckpt strip {last} -o s.safetensors"));
    succeed(folder.path(), &format!("ckpt average {last} s.safetensors -o m.safetensors"));
    let predict = |file: &str| {
        let output = run(folder.path(), &format!("predict photos --weights {file} --json --top-k 9"));
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stderr(&output), "", "nothing is guessed");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let of_run = predict(last);
    assert!(of_run.contains("\"name\":"), "{of_run}");
    for file in ["s.safetensors", "m.safetensors"] {
        assert_eq!(of_run, predict(file), "{file}");
        let object = json(&succeed(folder.path(), &format!("ckpt info {file} --json")));
        assert_eq!(object["model"]["model"], "resnet8");
        assert_eq!(object["model"]["crop_mode"], "squash");
        assert_eq!(object["model"]["exif_orientation"], true);
    }
    let val = |checkpoint: &str| {
        let object = json(&succeed(folder.path(), &format!("val photos --checkpoint {checkpoint} --json")));
        (object["top1"].clone(), object["loss"].clone())
    };
    assert_eq!(val(last), val("s.safetensors"));
    let rotated = |flag: &str| {
        succeed(
            folder.path(),
            &format!("predict photos/train/left/exif_rotated.jpg --weights s.safetensors --json {flag}"),
        )
    };
    assert_eq!(rotated(""), rotated("--exif-orientation"));
    assert_ne!(rotated(""), rotated("--no-exif-orientation"));
    // Fine-tuning takes model and input from the file, unless they are given.
    let plan =
        succeed(folder.path(), "train photos --batch-size 4 --dry-run --initial-checkpoint s.safetensors");
    for part in ["resnet8", "input     12x12x3", "input size, normalisation and crop are those of the file"] {
        assert!(plan.contains(part), "{part:?} is missing in {plan}");
    }
    let plan = succeed(
        folder.path(),
        "train photos --batch-size 4 --dry-run --initial-checkpoint s.safetensors --mean 0.5 --img-size 16",
    );
    assert!(
        plan.contains("input     16x16x3") && plan.contains("trained with another input_size, mean"),
        "{plan}"
    );
    let shown =
        succeed(folder.path(), "config show photos --batch-size 4 --initial-checkpoint s.safetensors");
    assert!(
        shown.lines().any(|line| line.starts_with("crop_pct ") && line.contains("weights file")),
        "{shown}"
    );

    // Other weights: what is guessed is reported.
    let plain: Vec<(String, Tensor)> = tensors(&folder.path().join("s.safetensors")).into_iter().collect();
    fs::write(folder.path().join("p.safetensors"), to_safetensors(&plain, None).expect("writes"))
        .expect("writes");
    let output = run(folder.path(), "predict photos --model resnet8 --weights p.safetensors");
    let message = stderr(&output);
    assert!(
        message.contains("note: the weights do not say") && message.contains("of resnet8 are used: input "),
        "{message}"
    );
    succeed(folder.path(), "models save resnet8 i.safetensors --num-classes 4");
    assert_eq!(stderr(&run(folder.path(), "predict photos --weights i.safetensors")), "");
    let output = run(folder.path(), "predict photos --model resnet20 --weights s.safetensors");
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("it is a resnet8 with"), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("the model is resnet20") && stderr(&output).contains("use --model resnet8")
    );
}
