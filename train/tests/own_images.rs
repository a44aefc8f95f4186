//! Training on own images from the command line: formats, augmentation, loader options, bad images.
mod common;
#[allow(dead_code)]
#[path = "../examples/shapes_dataset.rs"]
mod shapes;
#[path = "common/small_dataset.rs"]
mod small_dataset;
#[path = "common/sweep.rs"]
mod sweep;

use common::{run, stderr, succeed};
use fornax::data::Image;
use fornax::data::decode::{DecodeOptions, Gray16};
use fornax::data::export::png_bytes;
use std::fs;
use std::path::Path;

const TINY: &str = "--model resnet8 --img-size 32 --batch-size 16 --epochs 1 --warmup-epochs 0 --lr 0.05 --progress none --output out";

/// Hash of the final state of a run on `dataset` with further flags.
fn hash(folder: &Path, arguments: &str) -> String {
    let text = succeed(folder, &format!("train {arguments} --print-hash"));
    text.lines().last().expect("a hash").to_string()
}

#[test]
fn exported_formats_train_to_equal_weights_for_any_number_of_workers() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    small_dataset::write_small_dataset(root);
    let set = small_dataset::SMALL_DATASET.replace(" --batch-size 16", "");
    for format in ["folder", "tar", "idx"] {
        succeed(root, &format!("datasets export {set} --in-chans 1 --format {format} --output {format}"));
    }
    let recipe = "--model resnet8 --input-size 1 8 8 --mean 0.5 --std 0.3 --batch-size 8 --epochs 2 --warmup-epochs 0 \
                  --lr 0.05 --weight-decay 1e-4 --train-crop-mode rrc --hflip 0.5 --color-jitter 0.2 --smoothing 0.1 \
                  --crop-pct 1 --progress none --output out";
    let expected = hash(root, &format!("{set} {recipe} --workers 1"));
    for (source, workers) in [("folder", 0), ("tar", 1), ("idx", 4), ("folder", 4), ("tar", 0)] {
        let prefetch = if workers == 0 { "" } else { "--prefetch 3" };
        let found = hash(root, &format!("{source} {recipe} --workers {workers} {prefetch}"));
        assert_eq!(found, expected, "{source} with {workers} workers");
    }
    assert_ne!(hash(root, &format!("folder {recipe} --seed 7")), expected);
}

/// Every augmentation at once; the host prepares the same images as the step.
#[test]
fn full_recipe_trains_on_jpegs_and_does_not_depend_on_the_prefetcher() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    shapes::write(&root.join("shapes"), 120).expect("writes");
    let recipe = format!(
        "shapes {TINY} --aa rand-m9-mstd0.5-inc1 --mixup 0.2 --cutmix 1.0 --reprob 0.25 --recount 2 --vflip 0.1 \
         --grayscale-prob 0.1 --gaussian-blur-prob 0.1 --scale 0.3 1 --tta 2"
    );
    let expected = hash(root, &format!("{recipe} --experiment base"));
    assert_eq!(hash(root, &format!("{recipe} --no-prefetcher --workers 2")), expected);
    for change in
        ["--mixup-mode elem", "--remode const", "--train-interpolation bicubic", "--mixup-off-epoch 1"]
    {
        let effect = if change.ends_with("-epoch 1") { "--epochs 2" } else { "" };
        let base =
            if effect.is_empty() { expected.clone() } else { hash(root, &format!("{recipe} {effect}")) };
        assert_ne!(hash(root, &format!("{recipe} {change} {effect}")), base, "{change}");
    }
    let settings = fs::read_to_string(root.join("out/base/args.yaml")).expect("reads");
    for line in ["aa: \"rand-m9-mstd0.5-inc1\"", "mixup: 0.2", "reprob: 0.25", "input_size: [3,32,32]"] {
        assert!(settings.contains(line), "{line} is missing in\n{settings}");
    }
    let again = hash(root, "--config out/base/args.yaml --progress none --output out2");
    assert_eq!(again, expected, "args.yaml repeats the run");
}

/// The recipe for photos of `docs/training.md`, with fewer and smaller images and fewer epochs.
#[test]
fn photo_recipe_learns_shapes() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    // Ten classes: chance is 10 %.
    let (images, size, epochs, least) =
        if sweep::is_full_sweep() { (1200, 64, 16, 30.0) } else { (300, 48, 5, 14.0) };
    shapes::write(&root.join("shapes"), images).expect("writes");
    let recipe = "--model mobilenetv3_small_100 --batch-size 32 --warmup-epochs 2 --opt adamw --lr 3e-3 --weight-decay 0.02 \
                  --aa rand-m6-n1-mstd0.5 --mixup 0.1 --cutmix 0.5 --mixup-prob 0.3 --reprob 0.1 --scale 0.5 1 --smoothing 0.05";
    let arguments =
        format!("shapes {recipe} --img-size {size} --epochs {epochs} --progress none --output out --json");
    let text = succeed(root, &format!("train {arguments}"));
    let result: serde_json::Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert!(result["best_top1"].as_f64().expect("a number") >= least, "{result}");
}

#[test]
fn splits_train_with_jsd_and_repeated_augmentation_repeats_images() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    shapes::write(&root.join("shapes"), 100).expect("writes");
    let plain = hash(root, &format!("shapes {TINY}"));
    let splits = "--aug-splits 3 --jsd-loss --aa augmix-m3-w2 --reprob 0.2 --resplit";
    assert_ne!(hash(root, &format!("shapes {TINY} {splits}")), plain);
    assert_ne!(hash(root, &format!("shapes {TINY} --aug-repeats 2")), plain);
    assert_ne!(hash(root, &format!("shapes {TINY} --no-aug")), plain);
    assert_ne!(hash(root, &format!("shapes {TINY} --train-crop-mode rkrr")), plain);
}

#[test]
fn vision_transformer_trains_at_another_image_size() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    shapes::write(&root.join("shapes"), 60).expect("writes");
    let text = succeed(
        root,
        "train shapes --model vit_tiny_patch16_224 --img-size 32 --batch-size 8 --epochs 1 --warmup-epochs 0 --opt adamw \
         --lr 1e-3 --progress plain --output out --json",
    );
    assert!(text.contains("\"top1\":"), "{text}");
}

#[test]
fn bad_training_images_are_replaced_and_listed_or_end_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    shapes::write(&root.join("shapes"), 100).expect("writes");
    let bad = root.join("shapes/train/circle/1.jpg");
    let bytes = fs::read(&bad).expect("reads");
    fs::write(&bad, &bytes[..bytes.len() / 2]).expect("writes");
    succeed(root, &format!("train shapes {TINY} --experiment a --max-bad 0.05"));
    let list = fs::read_to_string(root.join("out/a/bad_images.csv")).expect("reads");
    assert!(list.contains("1.jpg") && list.contains("truncated"), "{list}");
    let log = fs::read_to_string(root.join("out/a/log.txt")).expect("reads");
    assert!(
        log.contains("1 training image cannot be read and is replaced by another")
            && log.contains("bad_images.csv"),
        "{log}"
    );
    let output = run(root, &format!("train shapes {TINY} --bad-image error"));
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("1.jpg") && text.contains("truncated"), "{text}");
}

#[test]
fn clips_of_frames_train_and_grey_images_feed_three_channels() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    shapes::write(&root.join("shapes"), 100).expect("writes");
    // Two classes of videos, each with four frames.
    for (split, videos) in [("train", 8), ("validation", 2)] {
        for class in ["circle", "stripes"] {
            let frames: Vec<_> =
                fs::read_dir(root.join("shapes/train").join(class)).expect("lists").collect();
            for video in 0..videos {
                let target = root.join("videos").join(split).join(class).join(format!("v{video}"));
                fs::create_dir_all(&target).expect("a folder");
                for (i, frame) in frames.iter().take(4).enumerate() {
                    let frame = frame.as_ref().expect("an entry").path();
                    fs::copy(frame, target.join(format!("{i}.jpg"))).expect("copies");
                }
            }
        }
    }
    let recipe = "--model resnet8 --img-size 24 --batch-size 4 --epochs 1 --warmup-epochs 0 --lr 0.01 --progress none --output out";
    let sparse = hash(root, &format!("videos {recipe} --clip-len 3"));
    assert_ne!(sparse, hash(root, &format!("videos {recipe} --clip-len 3 --clip-sampling dense")));
    small_dataset::write_small_dataset(root);
    let output =
        run(root, "train small --in-chans 3 --epochs 1 --warmup-epochs 0 --batch-size 8 --output out");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("grey images are converted to RGB"), "{}", stderr(&output));
}

#[test]
fn contradictions_name_the_flag() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    shapes::write(&root.join("shapes"), 60).expect("writes");
    for (flags, part) in [
        ("--mixup 0.2 --batch-size 15", "even"),
        ("--mixup 0.2 --aug-splits 2", "--aug-splits"),
        ("--aa rand-w0", "w0"),
        ("--jsd-loss", "--aug-splits"),
        ("--num-classes 3", "10 classes"),
        ("--tta 3", "views"),
    ] {
        let output = run(root, &format!("train shapes {TINY} {flags}"));
        let text = stderr(&output);
        assert!(!output.status.success() && text.contains(part), "{flags}: {part:?} is missing in\n{text}");
        assert!(!root.join("out").exists(), "{flags}: nothing is written");
    }
}

#[test]
fn options_without_effect_are_in_one_warning_and_the_run_is_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    small_dataset::write_small_dataset(root);
    shapes::write(&root.join("shapes"), 60).expect("writes");
    let warned = |arguments: &str, flags: &[&str]| {
        let output = run(root, &format!("train {arguments} --dry-run"));
        let text = stderr(&output);
        assert!(output.status.success(), "{arguments}: {text}");
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("without effect")).collect();
        let has_all = flags.iter().all(|flag| lines.iter().all(|line| line.contains(flag)));
        assert!(lines.len() == 1 && has_all, "{arguments}: {text}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let plan = warned(
        "--dataset digits --data-dir x --class-map m --input-key a --train-split b --val-fraction 0.5 --overwrite --no-resume-opt",
        &[
            "--data-dir",
            "--class-map",
            "--input-key",
            "--train-split",
            "--val-fraction",
            "--overwrite",
            "--no-resume-opt",
        ],
    );
    let plain = succeed(root, "train --dataset digits --dry-run");
    let of_data = |text: &str| text.lines().take_while(|line| !line.starts_with("output")).count();
    assert_eq!(plan.lines().next(), plain.lines().next());
    assert_eq!(of_data(&plan), of_data(&plain));
    warned(
        "--dataset idx --data-dir small --class-map none --target-key b",
        &["--class-map", "--target-key"],
    );
    warned("shapes --batch-size 8 --val-fraction 0.5 --target-key b", &["--val-fraction", "--target-key"]);
    let short = "train small --batch-size 8 --epochs 1 --warmup-epochs 0 --output out --progress none";
    succeed(root, &format!("{short} --experiment a"));
    warned("--resume out/a --output elsewhere", &["--output (--resume continues a run in its own folder)"]);
    let several = run(root, &format!("{short} --seeds 1,2 --overwrite"));
    let text = stderr(&several);
    assert!(several.status.success(), "{text}");
}

#[test]
fn warmup_of_the_whole_run_is_a_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    for defaults in ["fornax", "timm"] {
        let flags = format!("--defaults {defaults} --epochs 4 --warmup-epochs 5 --lr 0.1 --model resnet8");
        let output = run(folder.path(), &format!("train --dry-run {flags}"));
        assert!(
            output.status.success() && stderr(&output).contains("--warmup-epochs 5"),
            "{}",
            stderr(&output)
        );
        let output = run(folder.path(), &format!("train --dry-run {flags} --warmup-prefix"));
        assert!(!stderr(&output).contains("--warmup-epochs"), "{}", stderr(&output));
    }
    let output = run(folder.path(), "train --dry-run --sched wsd --epochs 4 --warmup-epochs 4");
    assert!(stderr(&output).contains("must be below --epochs"), "{}", stderr(&output));
}

#[test]
fn gray16_images_are_noted_before_training() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    shapes::write(&root.join("shapes"), 60).expect("writes");
    let deep = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/decoders/grey16.png");
    fs::copy(deep, root.join("shapes/train/circle/deep.png")).expect("copies");
    let note = |flags: &str| {
        let output =
            run(root, &format!("train shapes {TINY} --progress plain --experiment a --overwrite {flags}"));
        let text = stderr(&output);
        assert!(output.status.success(), "{text}");
        text.lines().find(|line| line.contains("16-bit grey")).map(String::from)
    };
    let line = note("").expect("a note");
    assert!(line.contains("note: training: 1 of ") && line.contains("--gray16 saturate"), "{line}");
    assert_eq!(note("--gray16 saturate"), None);
    let output = run(
        root,
        &format!("launch --nproc-per-node 2 train shapes {TINY} --progress plain --experiment a --overwrite"),
    );
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches("note: training: 1 of ").count(), 1, "all ranks count together: {text}");
}

/// 16-bit grey values and EXIF orientation are converted in prediction as in training.
#[test]
fn prediction_decodes_images_as_the_run_did() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let data = Path::new(env!("CARGO_MANIFEST_DIR"));
    let deep = fs::read(data.join("tests/data/decoders/grey16.png")).expect("reads");
    let turned = fs::read(data.join("../tests/golden/images/exif_rotated.jpg")).expect("reads");
    for class in ["a", "b"] {
        fs::create_dir_all(root.join("set").join(class)).expect("creates");
        for (name, bytes) in (0..6).flat_map(|i| [(format!("{i}.png"), &deep), (format!("{i}.jpg"), &turned)])
        {
            fs::write(root.join("set").join(class).join(name), bytes).expect("writes");
        }
    }
    let options = DecodeOptions { exif_orientation: true, gray16: Gray16::Saturate, ..DecodeOptions::new(3) };
    for (name, bytes) in [("deep", &deep), ("turned", &turned)] {
        fs::write(root.join(format!("{name}.img")), bytes).expect("writes");
        let converted = Image::decode_with(bytes, &options).expect("decodes");
        fs::write(root.join(format!("{name}.png")), png_bytes(&converted)).expect("writes");
    }
    let recipe = TINY.replace("--batch-size 16", "--batch-size 8");
    succeed(root, &format!("train set {recipe} --experiment run --exif-orientation --gray16 saturate"));
    let settings = fs::read_to_string(root.join("out/run/args.yaml")).expect("reads");
    assert!(settings.contains("gray16: \"saturate\""), "{settings}");
    let predict = |image: &str| {
        let text = succeed(root, &format!("predict {image} --weights out/run --json"));
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        json["topk"].to_string()
    };
    for name in ["deep", "turned"] {
        assert_eq!(predict(&format!("{name}.img")), predict(&format!("{name}.png")), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn hostile_class_names_are_harmless_in_terminals_and_tables() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let names = ["\u{1b}[31mred", "=cmd|calc", "two\nlines"];
    for (i, class) in names.iter().enumerate() {
        fs::create_dir_all(root.join("set").join(class)).expect("creates");
        for image in 0..8 {
            let pixels = (0..192).map(|at| (at * (i + 2) + image * 7) as u8).collect();
            let png = png_bytes(&Image { size: [8, 8, 3], pixels });
            fs::write(root.join("set").join(class).join(format!("{image}.png")), png).expect("writes");
        }
    }
    let recipe = TINY.replace("--batch-size 16", "--batch-size 8");
    let mut outputs = vec![run(root, &format!("train set {recipe} --experiment run"))];
    outputs.push(run(root, "val set --checkpoint out/run --per-class --confusion-matrix matrix.csv"));
    outputs.push(run(root, "predict set --weights out/run"));
    for output in outputs {
        let text = [&output.stdout[..], &output.stderr].concat();
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(!text.contains(&0x1b), "{}", String::from_utf8_lossy(&text));
        assert!(!String::from_utf8_lossy(&text).contains("two\nlines"), "{}", String::from_utf8_lossy(&text));
    }
    let matrix = fs::read_to_string(root.join("matrix.csv")).expect("reads");
    assert!(matrix.contains(",\\u{1b}[31mred,") && matrix.contains("\n'=cmd|calc,"), "{matrix}");
}

#[test]
fn augmentation_without_effect_is_ignored_with_a_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    shapes::write(&root.join("shapes"), 20).expect("writes");
    for (flags, part) in [
        ("--remode rand", "--remode (nothing is erased)"),
        ("--no-aug --hflip 0.3", "--hflip (--no-aug is given)"),
        ("--aa rand-m9 --color-jitter 0.3", "--color-jitter (as in timm, --aa replaces"),
        ("--train-crop-mode shift --scale 0.5 1", "--scale (the training crop mode shift"),
        ("--shift 3", "--shift (the training crop mode is not shift)"),
        ("--no-aug --aug-splits 2", "--aug-splits (--no-aug is given)"),
        ("--color-jitter 0 --color-jitter-prob 0.5", "--color-jitter-prob (there is no colour jitter)"),
        ("--clip-sampling dense", "--clip-sampling (a sample is a single image)"),
        ("--bad-image error --max-bad 0.2", "--max-bad (--bad-image error"),
        ("--workers 0 --prefetch 3", "--prefetch (--workers 0"),
        ("--in-chans 1 --grayscale-prob 0.5", "--grayscale-prob (the images are grey"),
    ] {
        let output = run(
            root,
            &format!("train shapes --model resnet8 --img-size 16 --batch-size 8 --dry-run {flags}"),
        );
        let text = stderr(&output);
        assert!(output.status.success() && text.contains(part), "{flags}: {part:?} is missing in\n{text}");
        assert_eq!(text.matches("warning:").count(), 1, "{text}");
    }
}

#[test]
fn explicit_shift_mode_shifts_images_of_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    shapes::write(&folder.path().join("shapes"), 20).expect("writes");
    let line = "train shapes --model resnet8 --img-size 16 --batch-size 8 --train-crop-mode shift --dry-run";
    let plan = succeed(folder.path(), line);
    assert!(plan.contains("shift: 4\n"), "{plan}");
    let plan = succeed(folder.path(), &format!("{line} --shift 0"));
    assert!(plan.contains("shift: 0\n"), "{plan}");
}
