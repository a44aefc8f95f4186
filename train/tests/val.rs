//! `fornax val`: the counts of training, other datasets, several checkpoints, outputs.
mod common;

use common::{run, stderr, succeed};
use fornax::nn::state_dict::{from_safetensors, to_safetensors};
use serde_json::Value;
use std::fs;
use std::path::Path;

const TRAIN: &str = "train --batch-size 128 --warmup-epochs 0 --progress none --output o --json";

fn lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn trained(folder: &Path, arguments: &str) -> Value {
    lines(&succeed(folder, &format!("{TRAIN} {arguments}"))).pop().expect("a result")
}

/// The last epoch's metrics, to the last bit, in f32, with mixed precision, with EMA weights and with test-time augmentation.
#[test]
fn metrics_equal_those_of_training() {
    let folder = tempfile::tempdir().expect("a folder");
    for (i, (flags, of_val)) in [
        ("", ""),
        ("--amp --amp-dtype bfloat16", ""),
        ("--model-ema --model-ema-decay 0.9", "--use-ema"),
        ("--tta 2 --val-num-samples 100", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let result = trained(folder.path(), &format!("--epochs 2 --experiment {i} {flags}"));
        let last = format!("o/{i}/checkpoints/last.safetensors");
        for more in ["", "--batch-size 100 --workers 0 --threads 1"] {
            let found =
                lines(&succeed(folder.path(), &format!("val --checkpoint {last} --json {of_val} {more}")));
            for key in ["top1", "top5"] {
                assert_eq!(found[0][key], result[key], "{flags} {more}: {key}");
            }
            if more.is_empty() {
                assert_eq!(found[0]["loss"], result["loss"], "{flags}");
            }
        }
    }
}

#[test]
fn run_folder_stands_for_its_best_checkpoint_and_several_are_compared() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = trained(folder.path(), "--epochs 3 --experiment a");
    let second = trained(folder.path(), "--epochs 1 --experiment b --lr 1e-4");
    let found = lines(&succeed(folder.path(), "val --checkpoint o/a o/b --json"));
    assert_eq!(found[0]["top1"], first["best_top1"]);
    assert_eq!(found[1]["top1"], second["best_top1"]);
    let text = succeed(folder.path(), "val --checkpoint o/b o/a --results-file results.csv");
    let table: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("CHECKPOINT")).collect();
    assert!(table[1].starts_with("o/a") && table[2].starts_with("o/b"), "{text}");
    let csv = fs::read_to_string(folder.path().join("results.csv")).expect("reads");
    assert!(csv.starts_with("model,checkpoint,top1,top1_err,") && csv.lines().count() == 3, "{csv}");
}

#[test]
fn class_counts_and_confusion_matrix_add_up() {
    let folder = tempfile::tempdir().expect("a folder");
    trained(folder.path(), "--epochs 2 --experiment a");
    let found =
        lines(&succeed(folder.path(), "val --checkpoint o/a --json --per-class --confusion-matrix m.csv"))
            .remove(0);
    let classes = found["classes"].as_array().expect("classes");
    let sum = |key: &str| classes.iter().map(|class| class[key].as_u64().expect("a count")).sum::<u64>();
    assert_eq!((classes.len(), sum("images")), (10, found["images"].as_u64().expect("a count")));
    let top1 = 100.0 * sum("correct") as f64 / sum("images") as f64;
    assert!((top1 - found["top1"].as_f64().expect("a percentage")).abs() < 1e-9);
    let matrix = fs::read_to_string(folder.path().join("m.csv")).expect("reads");
    let rows: Vec<Vec<u64>> = matrix
        .lines()
        .skip(1)
        .map(|row| row.split(',').skip(1).map(|n| n.parse().expect("a count")).collect())
        .collect();
    for (class, row) in rows.iter().enumerate() {
        assert_eq!(row.iter().sum::<u64>(), classes[class]["images"].as_u64().expect("a count"));
        assert_eq!(row[class], classes[class]["correct"].as_u64().expect("a count"));
    }
}

/// A folder of some of the classes, in an order of its own and without splits, gets the checkpoint's class indices.
#[test]
fn other_dataset_is_matched_by_class_names() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), "datasets export digits --format folder --output exported");
    let recipe = "--model resnet8 --img-size 8 --in-chans 1 --mean 0.02 --std 0.02 --no-aug --lr 0.1";
    trained(folder.path(), &format!("exported {recipe} --epochs 6 --experiment a"));
    let split = folder.path().join("exported/validation");
    for class in ["0", "1", "2", "5"] {
        fs::remove_dir_all(split.join(class)).expect("removes");
    }
    for root in ["exported/validation", "exported --split validation"] {
        let found =
            lines(&succeed(folder.path(), &format!("val {root} --checkpoint o/a --json --per-class")))
                .remove(0);
        assert!(found["top1"].as_f64().expect("a percentage") > 60.0, "{root}: {found}");
        assert_eq!(found["classes"][0]["images"], 0, "{found}");
    }
    fs::rename(split.join("7"), split.join("seven")).expect("renames");
    let output = run(folder.path(), "val exported/validation --checkpoint o/a");
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("\"seven\""), "{}", stderr(&output));
}

#[test]
fn plain_weights_need_a_model_and_a_dataset() {
    let folder = tempfile::tempdir().expect("a folder");
    let result = trained(folder.path(), "--epochs 2 --experiment a");
    succeed(folder.path(), "ckpt strip o/a/checkpoints/last.safetensors -o w.safetensors");
    for model in ["--model resnet8", ""] {
        let found =
            lines(&succeed(folder.path(), &format!("val digits {model} --weights w.safetensors --json")))
                .remove(0);
        assert_eq!((&found["top1"], &found["loss"]), (&result["top1"], &result["loss"]));
    }
    succeed(folder.path(), "models save resnet8 twelve.safetensors --num-classes 12 --in-chans 1");
    let output = run(folder.path(), "val digits --weights twelve.safetensors");
    assert!(stderr(&output).contains("has 12 classes, digits has 10"), "{}", stderr(&output));
    let with_names = fs::read(folder.path().join("w.safetensors")).expect("reads");
    let (tensors, _) = from_safetensors(&with_names).expect("valid");
    let tensors: Vec<_> = tensors.into_iter().collect();
    fs::write(folder.path().join("plain.safetensors"), to_safetensors(&tensors, None).expect("writes"))
        .expect("writes");
    for (arguments, code, part) in [
        ("val", 2, "nothing to evaluate"),
        ("val digits --weights plain.safetensors", 2, "--model is needed"),
        ("val digits --weights o/a --num-gpu 2", 2, "--num-gpu of timm is not available"),
        ("val digits --weights o/a --naflex-loader --test-pool", 2, "2 options of timm are not available"),
        ("val digits --weights o/a --valid-labels gone.txt", 2, "gone.txt"),
        ("val digits --weights o/a o/a --confusion-matrix m.csv", 2, "takes one checkpoint"),
        ("val gone --weights o/a", 3, "gone"),
        ("val digits --weights gone", 4, "gone"),
        ("val digits --model resnet20 --weights w.safetensors", 4, "do not fit"),
    ] {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{arguments}: {}", stderr(&output));
    }
}

/// Options of timm's validate.py that change nothing are accepted, with one warning.
#[test]
fn options_of_validate_are_accepted() {
    let folder = tempfile::tempdir().expect("a folder");
    let result = trained(folder.path(), "--epochs 1 --experiment a");
    let options = "-j 2 -m resnet8 --log-freq 5 --retry --pin-mem --channels-last --torchcompile --num-gpu 1 --seed 3 --json";
    let output = run(folder.path(), &format!("val --checkpoint o/a {options}"));
    assert!(output.status.success(), "{}", stderr(&output));
    let message = stderr(&output);
    let warning = message.lines().find(|line| line.contains("--log-freq")).expect("a warning");
    for part in
        ["warning: without effect", "--retry (", "--pin-mem (", "--channels-last (", "--torchcompile ("]
    {
        assert!(warning.contains(part), "{part} is missing in {message}");
    }
    assert!(!message.contains("--num-gpu") && message.contains("--seed"), "{message}");
    let found = lines(&String::from_utf8(output.stdout).expect("UTF-8")).remove(0);
    assert_eq!(found["top1"], result["top1"]);
}

/// The size, the crop and the interpolation are printed; weights without a run are evaluated at timm's test size and crop.
#[test]
fn weights_without_a_run_are_evaluated_at_test_size() {
    let folder = tempfile::tempdir().expect("a folder");
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/images");
    for class in ["a", "b"] {
        let target = folder.path().join("photos").join(class);
        fs::create_dir_all(&target).expect("creates");
        fs::copy(images.join("rgb.png"), target.join("rgb.png")).expect("copies");
    }
    succeed(folder.path(), "models save resnet18 w.safetensors --num-classes 2");
    let (tensors, _) =
        from_safetensors(&fs::read(folder.path().join("w.safetensors")).expect("reads")).expect("valid");
    let tensors: Vec<_> = tensors.into_iter().collect();
    fs::write(folder.path().join("w.safetensors"), to_safetensors(&tensors, None).expect("writes"))
        .expect("writes");
    let val = "val photos --model resnet18 --checkpoint w.safetensors";
    for (flags, size, crop) in [
        ("", 288, 1.0),
        ("--use-train-size", 224, 0.95),
        ("--img-size 64", 64, 1.0),
        ("--crop-pct 0.5", 288, 0.5),
    ] {
        let found = lines(&succeed(folder.path(), &format!("{val} --json {flags}"))).remove(0);
        assert_eq!(
            (found["input_size"][1].as_u64(), found["crop_pct"].as_f64()),
            (Some(size), Some(crop)),
            "{flags}"
        );
        let text = succeed(folder.path(), &format!("{val} {flags}"));
        assert!(text.contains(&format!("at {size}x{size}, crop {crop:.3} (center), bicubic")), "{text}");
    }
}

/// A checkpoint that is missing or does not fit costs its own result only.
#[test]
fn bad_checkpoint_does_not_lose_the_results_of_others() {
    let folder = tempfile::tempdir().expect("a folder");
    trained(folder.path(), "--epochs 1 --experiment a");
    succeed(folder.path(), "models save resnet20 other.safetensors --in-chans 1 --num-classes 10");
    let arguments = "val digits --model resnet8 --checkpoint gone.safetensors other.safetensors o/a --results-file r.json --results-format json";
    let output = run(folder.path(), arguments);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let message = stderr(&output);
    for part in ["gone.safetensors", "it is a resnet20", "2 of 3 checkpoints were not evaluated"] {
        assert!(message.contains(part), "{part} is missing in {message}");
    }
    let rows: Value = serde_json::from_str(&fs::read_to_string(folder.path().join("r.json")).expect("reads"))
        .expect("JSON");
    assert_eq!((rows.as_array().map(Vec::len), rows[0]["checkpoint"].as_str()), (Some(1), Some("o/a")));
}

#[test]
fn class_averages_and_valid_labels_are_computed() {
    let folder = tempfile::tempdir().expect("a folder");
    trained(folder.path(), "--epochs 2 --experiment a");
    let val = |flags: &str| {
        lines(&succeed(folder.path(), &format!("val --checkpoint o/a --json {flags}"))).remove(0)
    };
    let (plain, micro) = (val(""), val("--metrics-avg micro --results-file r.csv"));
    assert!(plain["precision"].is_null());
    assert!(
        (micro["f1_score"].as_f64().expect("a number") - plain["top1"].as_f64().expect("a number")).abs()
            < 1e-9
    );
    let csv = fs::read_to_string(folder.path().join("r.csv")).expect("reads");
    assert!(
        csv.starts_with("model,checkpoint,top1,")
            && csv.lines().next().expect("a header").ends_with(",f1_score")
    );
    // All labels, in their order, change nothing; another order does.
    let write = |order: &mut dyn Iterator<Item = u32>| {
        let text: String = order.map(|label| format!("{label}\n")).collect();
        fs::write(folder.path().join("labels.txt"), text).expect("writes");
    };
    write(&mut (0..10));
    assert_eq!(val("--valid-labels labels.txt")["top1"], plain["top1"]);
    write(&mut (0..10).rev());
    assert_ne!(val("--valid-labels labels.txt")["top1"], plain["top1"]);
    write(&mut (0..9));
    let output = run(folder.path(), "val --checkpoint o/a --valid-labels labels.txt");
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("9 labels are too few"), "{}", stderr(&output));
}

/// A CSV list whose columns have names of their own.
#[test]
fn csv_columns_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/images/rgb.png");
    fs::create_dir(folder.path().join("list")).expect("creates");
    let mut csv = "img,lab\n".to_string();
    for class in ["a", "b"] {
        fs::copy(&image, folder.path().join(format!("list/{class}.png"))).expect("copies");
        csv += &format!("{class}.png,{class}\n");
    }
    fs::write(folder.path().join("list/val.csv"), csv).expect("writes");
    succeed(folder.path(), "models save resnet8 w.safetensors --num-classes 2");
    let found = succeed(
        folder.path(),
        "val list --split val --input-key img --target-key lab --checkpoint w.safetensors --img-size 16 --json",
    );
    assert_eq!(lines(&found)[0]["images"], 2);
}
