//! `fornax predict` and `fornax models save`.
mod common;

use common::{run, stderr, succeed};
use fornax::engine::{Tensor, no_grad};
use fornax::nn::state_dict::{from_safetensors, to_safetensors};
use fornax::nn::{Context, ModelOptions, create_model};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn images() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/images")
}

fn tensor(path: &Path, name: &str) -> Tensor {
    let (tensors, _) = from_safetensors(&fs::read(path).expect("reads")).expect("safetensors");
    tensors[name].clone()
}

/// Saves weights of a resnet8 for ten classes of grey images to a folder, and returns the model.
fn saved(folder: &Path) -> Box<dyn fornax::nn::models::Model> {
    succeed(folder, "models save resnet8 w.safetensors --num-classes 10 --in-chans 1 --seed 5");
    let options = ModelOptions { num_classes: 10, in_chans: 1, seed: 5, ..ModelOptions::default() };
    create_model("resnet8", &options).expect("builds")
}

#[track_caller]
fn assert_rejected(folder: &Path, arguments: &str, code: i32, parts: &[&str]) {
    let output = run(folder, arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments}: {message}");
    for part in parts {
        assert!(message.contains(part), "{arguments}: {part:?} is missing in\n{message}");
    }
    assert!(output.stdout.is_empty(), "{arguments} wrote results");
}

#[test]
fn checkpoint_is_sufficient_for_predictions() {
    let folder = tempfile::tempdir().expect("a folder");
    let quick = "--epochs 1 --batch-size 256 --warmup-epochs 0 --progress none --output o --experiment a";
    succeed(folder.path(), &format!("train {quick}"));
    let weights = "--weights o/a/checkpoints/best.safetensors";
    let folder_of_images = images();
    let text = succeed(folder.path(), &format!("predict {} {weights} --topk 3", folder_of_images.display()));
    assert_eq!(text.matches(" %  ").count(), 30, "three classes for each of ten images: {text}");
    // In natural order, by name.
    let names: Vec<&str> = text.lines().filter(|l| !l.starts_with(' ')).collect();
    assert!(names[0].ends_with("exif_rotated.jpg") && names[9].ends_with("rgba.png"), "{names:?}");

    let lines = succeed(
        folder.path(),
        &format!(
            "predict {}/gray.png {}/rgb.png {weights} --json --topk 99",
            folder_of_images.display(),
            folder_of_images.display()
        ),
    );
    for line in lines.lines() {
        let value: Value = serde_json::from_str(line).expect("JSON");
        let top = value["topk"].as_array().expect("a list");
        let sum: f64 = top.iter().map(|c| c["probability"].as_f64().expect("a number")).sum();
        assert_eq!(
            (top.len(), top[0]["name"].as_str()),
            (10, top[0]["class"].as_u64().map(|c| c.to_string()).as_deref())
        );
        assert!((sum - 1.0).abs() < 1e-9);
    }
    assert_eq!(lines.lines().count(), 2);
    let ema = format!("predict {}/gray.png {weights} --use-ema", folder_of_images.display());
    assert_rejected(folder.path(), &ema, 4, &["best.safetensors", "no EMA weights"]);
}

#[test]
fn tensor_input_gives_logits_and_features_of_the_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = saved(folder.path());
    let values: Vec<f32> = (0..7 * 81).map(|i| (i as f32 * 0.7).sin()).collect();
    let input = Tensor::from_vec(values, [7, 1, 9, 9]).expect("memory");
    let bytes = to_safetensors(&[("input".to_string(), input.clone())], None).expect("writes");
    fs::write(folder.path().join("x.safetensors"), bytes).expect("writes");
    let x = Tensor::from_nchw(&input).expect("permutes");
    let expected = no_grad(|| model.forward(&x, &mut Context::eval())).expect("computes");
    for batch in [7, 3] {
        let text = succeed(
            folder.path(),
            &format!(
                "predict --tensor x.safetensors --model resnet8 --weights w.safetensors --logits l.safetensors \
                 --features f.safetensors --batch-size {batch} --device cpu"
            ),
        );
        assert_eq!(text, "");
        let logits = tensor(&folder.path().join("l.safetensors"), "logits");
        assert_eq!(logits.dims(), [7, 10]);
        for (a, b) in logits.to_vec::<f32>().expect("f32").iter().zip(expected.to_vec::<f32>().expect("f32"))
        {
            assert!((a - b).abs() <= 1e-5, "{a} {b}");
        }
        assert_eq!(tensor(&folder.path().join("f.safetensors"), "features").dims(), [7, 64]);
    }
}

#[test]
fn features_are_written_with_image_paths() {
    let folder = tempfile::tempdir().expect("a folder");
    saved(folder.path());
    let folder_of_images = images();
    let text = succeed(
        folder.path(),
        &format!(
            "predict {} --model resnet8 --weights w.safetensors --num-classes 0 --in-chans 3 --features f.safetensors",
            folder_of_images.display()
        ),
    );
    assert_eq!(text, "", "a model without classes has nothing to print");
    let bytes = fs::read(folder.path().join("f.safetensors")).expect("reads");
    let (tensors, metadata) = from_safetensors(&bytes).expect("safetensors");
    assert_eq!(tensors["features"].dims(), [10, 64]);
    let paths: Vec<String> = serde_json::from_str(&metadata["paths"]).expect("a list");
    assert_eq!(paths.len(), 10);
    assert!(paths[1].ends_with("gray.jpg"), "{paths:?}");
}

#[test]
fn prediction_goes_on_past_bad_images_and_exits_with_3() {
    let folder = tempfile::tempdir().expect("a folder");
    saved(folder.path());
    let set = folder.path().join("set");
    fs::create_dir(&set).expect("creates");
    let good = fs::read(images().join("gray.png")).expect("reads");
    fs::write(set.join("1.png"), &good).expect("writes");
    fs::write(set.join("2.png"), &good[..300]).expect("writes");
    fs::write(set.join("3.png"), &good).expect("writes");
    let gif = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/decoders/palette.gif");
    fs::copy(gif, set.join("4.gif")).expect("copies");
    let model = "--model resnet8 --weights w.safetensors --features f.safetensors --json --device cpu";
    for batch in [1, 2, 8] {
        let output = run(folder.path(), &format!("predict set {model} --batch-size {batch}"));
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{message}");
        assert!(message.contains("2.png") && message.contains("1 of 4 images cannot be read"), "{message}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.iter().filter(|line| line["topk"].is_array()).count(), 3, "{text}");
        let bad: Vec<&Value> = lines.iter().filter(|line| line["error"].is_string()).collect();
        assert!(bad.len() == 1 && bad[0]["image"].as_str().expect("a path").ends_with("2.png"), "{text}");
        assert_eq!(tensor(&folder.path().join("f.safetensors"), "features").dims(), [3, 64]);
    }
}

#[cfg(unix)]
#[test]
fn prediction_goes_on_past_entries_that_cannot_be_listed() {
    use std::os::unix::{ffi::OsStrExt, fs::symlink};
    let folder = tempfile::tempdir().expect("a folder");
    saved(folder.path());
    let set = folder.path().join("set");
    fs::create_dir(&set).expect("creates");
    fs::copy(images().join("gray.png"), set.join("1.png")).expect("copies");
    symlink("nowhere", set.join("2.png")).expect("links");
    symlink(&set, set.join("loop")).expect("links");
    fs::write(set.join(std::ffi::OsStr::from_bytes(b"\xff.png")), b"x").expect("writes");
    let output =
        run(folder.path(), "predict set --model resnet8 --weights w.safetensors --json --device cpu");
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{message}");
    for part in ["leads nowhere", "in a circle", "not UTF-8", "3 of 4 images cannot be read"] {
        assert!(message.contains(part), "{part:?} is missing in\n{message}");
    }
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!((text.matches("\"topk\"").count(), text.matches("\"error\"").count()), (1, 3), "{text}");
}

#[test]
fn class_names_come_from_class_map() {
    let folder = tempfile::tempdir().expect("a folder");
    saved(folder.path());
    let names: Vec<String> = (0..10).map(|i| format!("thing {i}")).collect();
    fs::write(folder.path().join("names.txt"), format!("\u{feff}{}", names.join("\n"))).expect("writes");
    fs::write(folder.path().join("short.txt"), "a\nb\n").expect("writes");
    let image = images().join("gray.png");
    let predict = format!("predict {} --model resnet8 --weights w.safetensors", image.display());
    let text = succeed(folder.path(), &format!("{predict} --class-map names.txt"));
    assert!(text.matches("thing ").count() == 5 && !text.contains('\u{feff}'), "{text}");
    assert_rejected(
        folder.path(),
        &format!("{predict} --class-map short.txt"),
        2,
        &["short.txt", "2 lines", "10 classes"],
    );
}

#[test]
fn invalid_arguments_and_files_are_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    saved(folder.path());
    let image = images().join("gray.png");
    fs::create_dir(folder.path().join("empty")).expect("creates");
    fs::write(folder.path().join("bad.png"), &fs::read(&image).expect("reads")[..300]).expect("writes");
    fs::write(folder.path().join("bad.safetensors"), [1; 50]).expect("writes");
    fs::copy(&image, folder.path().join("good.png")).expect("copies");
    let (tensors, _) =
        from_safetensors(&fs::read(folder.path().join("w.safetensors")).expect("reads")).expect("valid");
    let tensors: Vec<(String, Tensor)> = tensors.into_iter().collect();
    fs::write(folder.path().join("plain.safetensors"), to_safetensors(&tensors, None).expect("writes"))
        .expect("writes");
    let model = "--model resnet8 --weights w.safetensors";
    let cases: [(String, i32, &[&str]); 17] = [
        ("predict".into(), 2, &["IMAGE"]),
        (format!("predict bad.png {model}"), 3, &["bad.png", "the PNG is truncated"]),
        (format!("predict none.png {model}"), 3, &["none.png", "no such file", "check the path"]),
        (format!("predict w.safetensors {model}"), 3, &["w.safetensors", "it is not a PNG"]),
        (format!("predict empty {model}"), 3, &["empty", "no file in it"]),
        (format!("predict good.png {model} --tta 3"), 2, &["--tta", "3 views are not available"]),
        ("predict good.png".into(), 2, &["neither --weights nor --model"]),
        ("predict good.png --weights plain.safetensors".into(), 2, &["--model is needed"]),
        ("predict good.png --model resnet19 --weights w.safetensors".into(), 2, &["did you mean resnet18"]),
        (
            "predict good.png --model resnet20 --weights w.safetensors".into(),
            4,
            &[
                "w.safetensors",
                "it is a resnet8 with 10 classes; the model is resnet20",
                "missing",
                "use --model resnet8",
            ],
        ),
        (format!("predict good.png {model} --num-classes 7"), 4, &["fc.weight", "needs f32[7, 64]"]),
        (format!("predict good.png {model} --mean 0.5 0.5"), 2, &["--mean", "2 numbers for 1 channels"]),
        (format!("predict good.png {model} --crop-pct 0"), 2, &["--crop-pct", "above 0"]),
        ("predict good.png --model resnet8 --weights bad.safetensors".into(), 4, &["bad.safetensors"]),
        (format!("predict --tensor w.safetensors --logits l {model}"), 3, &["w.safetensors", "input"]),
        (format!("predict --tensor w.safetensors {model}"), 2, &["--logits", "--features"]),
        (
            format!("predict --tensor w.safetensors --logits l --csv top.csv {model}"),
            2,
            &["--csv", "exclude each other"],
        ),
    ];
    for (arguments, code, parts) in cases {
        assert_rejected(folder.path(), &arguments, code, parts);
    }
}

#[test]
fn top_classes_are_written_as_csv() {
    let folder = tempfile::tempdir().expect("a folder");
    saved(folder.path());
    let image = images().join("gray.png");
    let predict = format!("predict {} --checkpoint w.safetensors", image.display());
    succeed(folder.path(), &format!("{predict} --top-k 3 --csv top.csv"));
    let csv = fs::read_to_string(folder.path().join("top.csv")).expect("reads");
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((rows.len(), rows[0].join(",").as_str()), (4, "image,rank,class,name,probability"));
    let object: Value =
        serde_json::from_str(&succeed(folder.path(), &format!("{predict} --topk 3 --json"))).expect("JSON");
    for (i, row) in rows[1..].iter().enumerate() {
        assert_eq!((row[0], row[1]), (image.to_str().expect("UTF-8"), (i + 1).to_string().as_str()));
        assert_eq!(row[2], object["topk"][i]["class"].to_string());
        assert_eq!(row[4], object["topk"][i]["probability"].to_string());
    }
}

/// The mean of the logits of an image and of its mirror image.
#[test]
fn test_time_augmentation_averages_views() {
    let folder = tempfile::tempdir().expect("a folder");
    saved(folder.path());
    let image = images().join("gray.png");
    let logits = |flags: &str| {
        let predict = format!(
            "predict {} --weights w.safetensors --img-size 32 --logits l.safetensors",
            image.display()
        );
        succeed(folder.path(), &format!("{predict} {flags}"));
        tensor(&folder.path().join("l.safetensors"), "logits")
    };
    let (one, two) = (logits(""), logits("--tta 2"));
    assert_eq!((one.dims(), two.dims()), (&[1, 10][..], &[1, 10][..]));
    assert_eq!(one.to_vec::<f32>().expect("f32"), logits("--tta 1").to_vec::<f32>().expect("f32"));
    assert_ne!(one.to_vec::<f32>().expect("f32"), two.to_vec::<f32>().expect("f32"));
    assert_eq!(logits("--tta 10").dims(), [1, 10]);
}

/// Options of the image transform and of the printed classes, which a preprocessed input does not use.
#[test]
fn options_without_effect_on_a_tensor_are_ignored_with_one_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    saved(folder.path());
    let input = Tensor::from_vec(vec![0.5f32; 81], [1, 1, 9, 9]).expect("memory");
    let bytes = to_safetensors(&[("input".to_string(), input)], None).expect("writes");
    fs::write(folder.path().join("x.safetensors"), bytes).expect("writes");
    let predict = "predict --tensor x.safetensors --model resnet8 --weights w.safetensors --device cpu";
    succeed(folder.path(), &format!("{predict} --logits a.safetensors"));
    let output = run(
        folder.path(),
        &format!("{predict} --logits b.safetensors --mean 0.5 --crop-pct 0.9 --top-k 3 --class-map gone.txt"),
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let expected = "warning: without effect, and ignored: --crop-pct, --mean (the input of --tensor is preprocessed); --top-k, --class-map (--tensor prints no classes)\n";
    assert_eq!(stderr(&output), expected);
    let read = |name: &str| fs::read(folder.path().join(name)).expect("reads");
    assert_eq!(read("a.safetensors"), read("b.safetensors"));
    // Results that it cannot give.
    for flag in ["--csv top.csv", "--json", "--tta 2"] {
        let output = run(folder.path(), &format!("{predict} --logits b.safetensors {flag}"));
        assert_eq!(output.status.code(), Some(2), "{flag}: {}", stderr(&output));
    }
}
