//! Bad images from the command line: the check of all headers before training, the policies for training and validation images, and runs
//! that are resumed after files have changed.
mod common;
#[path = "common/parallel.rs"]
#[allow(dead_code)]
mod parallel;
#[allow(dead_code)]
#[path = "../examples/shapes_dataset.rs"]
mod shapes;

use common::{run, stderr, succeed};
use fornax::trainer::TrainerState;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const TINY: &str = "--model resnet8 --img-size 16 --batch-size 16 --epochs 2 --warmup-epochs 0 --lr 0.05 --workers 1 --output out";

/// Folder with `shapes`, 100 images of ten classes.
fn dataset() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    shapes::write(&folder.path().join("shapes"), 100).expect("writes");
    folder
}

/// The image files of a class, sorted.
fn images(root: &Path, class: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join("shapes").join(class)).expect("lists");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

fn truncate(path: &Path) {
    let bytes = fs::read(path).expect("reads");
    fs::write(path, &bytes[..bytes.len() / 2]).expect("writes");
}

/// Rows of the list of bad images of a run, sorted.
fn rows(root: &Path, experiment: &str) -> Vec<String> {
    let list = fs::read_to_string(root.join("out").join(experiment).join("bad_images.csv")).expect("reads");
    let mut rows: Vec<String> = list.lines().skip(1).map(String::from).collect();
    rows.sort();
    rows
}

/// The state of the last checkpoint of a run.
fn state(root: &Path, experiment: &str) -> TrainerState {
    let path = root.join("out").join(experiment).join("checkpoints/last.safetensors");
    fornax::checkpoint::read(&path).expect("reads").header.state
}

/// Truncates the first training images of each class; their headers are whole.
fn truncate_training_images(root: &Path, per_class: usize) -> Vec<PathBuf> {
    let classes = fs::read_dir(root.join("shapes/train")).expect("lists");
    let mut bad: Vec<PathBuf> = classes
        .flat_map(|class| {
            let class = class.expect("an entry").file_name();
            let all = images(root, &format!("train/{}", class.to_string_lossy()));
            all.into_iter().take(per_class)
        })
        .collect();
    bad.sort();
    bad.iter().for_each(|path| truncate(path));
    bad
}

/// Training images of [`dataset`].
fn training_images(root: &Path) -> usize {
    let classes = fs::read_dir(root.join("shapes/train")).expect("lists");
    classes.map(|class| fs::read_dir(class.expect("an entry").path()).expect("lists").count()).sum()
}

fn json(stdout: &str) -> Value {
    serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON")
}

#[test]
fn bad_headers_of_both_splits_are_listed_at_once_before_the_first_update() {
    let folder = dataset();
    let root = folder.path();
    let bad: Vec<PathBuf> =
        [&images(root, "train/circle")[..2], &images(root, "validation/circle")[..1]].concat();
    bad.iter().for_each(|path| fs::write(path, b"<html>").expect("writes"));
    let output = run(
        root,
        &format!("train shapes {TINY} --bad-image error --experiment a --progress plain --log-interval 1"),
    );
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("2 training images and 1 validation image cannot be used"), "{text}");
    assert!(bad.iter().all(|path| text.contains(&name(path))), "{text}");
    assert!(!text.contains("  batch "), "nothing is trained: {text}");
    let list = fs::read_to_string(root.join("out/a/bad_images.csv")).expect("reads");
    assert_eq!(list.lines().count(), 4, "{list}");
    // The same command line starts again after the repair.
    fs::copy(&images(root, "train/circle")[3], &bad[0]).expect("copies");
    fs::copy(&images(root, "train/circle")[3], &bad[1]).expect("copies");
    fs::remove_file(&bad[2]).expect("removes");
    succeed(
        root,
        &format!("train shapes {TINY} --bad-image error --experiment a --resume auto --progress none"),
    );
}

#[test]
fn bad_validation_image_is_skipped_and_counted() {
    let folder = dataset();
    let root = folder.path();
    let images_of_class = images(root, "validation/circle");
    // A damaged header, and damage after the header.
    fs::write(&images_of_class[0], b"x").expect("writes");
    let whole = json(&succeed(root, &format!("train shapes {TINY} --progress none --json --experiment a")));
    assert_eq!(whole["skipped_images"], 1, "{whole}");
    let text = succeed(root, "train --resume out/a --progress none");
    assert!(text.contains("(1 image skipped)"), "{text}");
    let log = fs::read_to_string(root.join("out/a/log.txt")).expect("reads");
    assert!(log.contains("1 validation image cannot be read and is skipped"), "{log}");
    let metrics = fs::read_to_string(root.join("out/a/metrics.jsonl")).expect("reads");
    assert_eq!(metrics.matches("\"eval_skipped\":1").count(), 2, "{metrics}");
    // With two ranks the counts are summed.
    truncate(images(root, "validation/stripes").last().expect("an image"));
    let ranks = format!(
        "launch --nproc-per-node 2 train shapes {TINY} --batch-size 8 --progress none --json --max-bad 0.2 --experiment b"
    );
    assert_eq!(json(&succeed(root, &ranks))["skipped_images"], 2);
    assert_eq!(rows(root, "b").len(), 2, "images of both ranks are listed");
    let list = fs::read_to_string(root.join("out/a/bad_images.csv")).expect("reads");
    assert!(list.starts_with("split,index,path,reason\nvalidation,"), "{list}");
}

#[test]
fn max_bad_limits_validation_images_on_their_own() {
    let folder = dataset();
    let root = folder.path();
    let images_of_class = images(root, "validation/circle");
    let count = images_of_class.len();
    assert!(count > 1, "{count}");
    images_of_class.iter().for_each(|path| truncate(path));
    let output = run(root, &format!("train shapes {TINY} --experiment a --progress none"));
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("too many validation images are bad") && text.contains("--max-bad"), "{text}");
    // Their headers are whole: the updates are done, and none of them is lost.
    let state = state(root, "a");
    assert!(state.epoch == 0 && state.update > 0, "{state:?}");
    // Removing the images is a way on.
    images_of_class.iter().skip(1).for_each(|path| fs::remove_file(path).expect("removes"));
    let output = run(root, "train --resume out/a");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("note: the validation data have changed"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("the training data have changed"), "{}", stderr(&output));
}

#[test]
fn run_that_ends_for_too_many_bad_images_has_listed_all_of_them() {
    let folder = dataset();
    let root = folder.path();
    let bad = &images(root, "train/circle")[..3];
    bad.iter().for_each(|path| truncate(path));
    let output = run(root, &format!("train shapes {TINY} --experiment a --max-bad 0.025 --progress none"));
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("too many training images are bad: 3 of"), "{text}");
    let list = fs::read_to_string(root.join("out/a/bad_images.csv")).expect("reads");
    for path in bad {
        assert!(text.contains(&name(path)), "{} in {text}", name(path));
        assert!(list.contains(&name(path)), "{} in {list}", name(path));
    }
}

#[test]
fn changed_training_data_need_consent_and_the_classes_stay() {
    let folder = dataset();
    let root = folder.path();
    succeed(root, &format!("train shapes {TINY} --experiment a --progress none"));
    fs::remove_file(&images(root, "train/circle")[0]).expect("removes");
    let resume = "train --resume out/a --epochs 3";
    let output = run(root, resume);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("--allow-changed-data"), "{}", stderr(&output));
    let output = run(root, &format!("{resume} --allow-changed-data"));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("from epoch 2 on, images and their order differ"),
        "{}",
        stderr(&output)
    );
    // The new data are those of the run from now on.
    succeed(root, "train --resume out/a --epochs 4 --progress none");
    fs::rename(root.join("shapes/train/circle"), root.join("shapes/train/oval")).expect("renames");
    fs::rename(root.join("shapes/validation/circle"), root.join("shapes/validation/oval")).expect("renames");
    let output = run(root, &format!("{resume} --epochs 5 --allow-changed-data"));
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("the classes of the dataset have changed"), "{}", stderr(&output));
    let output = run(root, &format!("train shapes {TINY} --allow-changed-data"));
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn bad_image_policy_is_without_effect_on_the_digits() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(folder.path(), "train --bad-image skip --fast-dev-run 1");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("--bad-image and --max-bad have no effect"), "{}", stderr(&output));
}

#[test]
fn default_recipe_on_a_cpu_is_noted_as_long() {
    let folder = dataset();
    let output = run(folder.path(), "train shapes --batch-size 8 --dry-run --device cpu");
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stderr(&output);
    assert!(
        text.contains("300 epochs of resnet50 from scratch take long on a CPU")
            && text.contains("--pretrained"),
        "{text}"
    );
    let output = run(folder.path(), &format!("train shapes {TINY} --dry-run --device cpu"));
    assert!(!stderr(&output).contains("take long"), "{}", stderr(&output));
}

#[test]
fn plan_in_json_has_fields_and_the_disk_space() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(
        folder.path(),
        "train --epochs 1 --warmup-epochs 0 --train-batches-per-epoch 2 --progress json --output out",
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stderr(&output);
    let plan: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    assert_eq!(
        (&plan["event"], &plan["model"], &plan["epochs"]),
        (&"plan".into(), &"resnet8".into(), &1.into())
    );
    assert_eq!(plan["updates_per_epoch"], 2);
    assert!(plan["disk"]["checkpoint_bytes"].as_u64() > Some(100_000), "{plan}");
    assert!(plan["disk"]["free_bytes"].as_u64().is_some(), "{plan}");
    assert!(plan["output"].as_str().is_some_and(|path| path.contains("out")), "{plan}");
}

/// Command line of one epoch on `world` ranks with batches of 12 images.
fn on_ranks(world: usize, flags: &str) -> String {
    let train = format!("train shapes {TINY} --epochs 1 --batch-size {} --progress none {flags}", 12 / world);
    if world == 1 { train } else { format!("launch --nproc-per-node {world} {train}") }
}

#[test]
fn bad_training_images_are_counted_and_listed_over_all_ranks() {
    let folder = dataset();
    let root = folder.path();
    truncate_training_images(root, 1);
    succeed(root, &on_ranks(1, "--max-bad 1 --experiment all-1"));
    let all = rows(root, "all-1");
    assert!(all.len() > 6, "{all:?}");
    let fraction = |images: usize| (images as f64 + 0.5) / training_images(root) as f64;
    for world in [1, 2, 3] {
        if world > 1 {
            succeed(root, &on_ranks(world, &format!("--max-bad 1 --experiment all-{world}")));
            assert_eq!(rows(root, &format!("all-{world}")), all, "{world} ranks");
        }
        let log = fs::read_to_string(root.join(format!("out/all-{world}/log.txt"))).expect("reads");
        let warning = format!("{} training images cannot be read and are replaced", all.len());
        assert!(log.contains(&warning), "{world} ranks: {log}");
        assert_eq!(state(root, &format!("all-{world}")).bad_images.training.len(), all.len());
        for (allowed, code) in [(3, 3), (all.len() - 1, 3), (all.len(), 0)] {
            let flags = format!("--max-bad {} --experiment {world}-{allowed}", fraction(allowed));
            let output = run(root, &on_ranks(world, &flags));
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(code), "{world} ranks, {allowed} allowed: {text}");
            if code == 0 {
                continue;
            }
            let counts =
                (allowed + 1..=all.len()).map(|bad| format!("too many training images are bad: {bad} of"));
            assert!(
                counts.into_iter().any(|count| text.contains(&count)),
                "{world} ranks, {allowed} allowed: {text}"
            );
            // Every rank reports the cause.
            assert_eq!(text.matches("too many training images").count(), world, "{world} ranks: {text}");
            assert!(!text.contains("was lost") && !text.contains("no connection"), "{world} ranks: {text}");
        }
    }
    let output = run(root, &on_ranks(2, "--bad-image error --experiment strict"));
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}

#[test]
fn resumed_run_keeps_the_bad_images_of_its_first_part() {
    let folder = dataset();
    let root = folder.path();
    let bad = truncate_training_images(root, 1);
    succeed(root, &on_ranks(1, "--max-bad 1 --experiment a"));
    let all = rows(root, "a");
    assert!(all.len() > 6, "{all:?}");
    let copy = |name: &str, files: &[&str]| {
        let (from, to) = (root.join("out/a"), root.join("out").join(name));
        fs::create_dir_all(to.join("checkpoints")).expect("a folder");
        for file in files {
            fs::copy(from.join(file), to.join(file)).expect("copies");
        }
    };
    // One batch an epoch meets few of them.
    let resume = |name: &str, world: usize, allowed: usize, options: &str| {
        copy(name, &["args.yaml", "checkpoints/last.safetensors"]);
        let max_bad = (allowed as f64 + 0.5) / training_images(root) as f64;
        let flags = format!(
            "--resume out/{name} --epochs 2 --train-batches-per-epoch 1 --max-bad {max_bad} --batch-size {} {options}",
            12 / world
        );
        let train = format!("train {flags} --progress none");
        run(root, &if world == 1 { train } else { format!("launch --nproc-per-node {world} {train}") })
    };
    // Paths are absolute in a resumed run.
    let indices = |rows: &[String]| -> Vec<String> {
        rows.iter().map(|row| row.split(',').nth(1).expect("an index").to_string()).collect()
    };
    for (world, has_list) in [(1, false), (1, true), (2, false)] {
        let name = format!("kept-{world}-{has_list}");
        if has_list {
            copy(&name, &["bad_images.csv"]);
        }
        let output = resume(&name, world, all.len(), "");
        assert!(output.status.success(), "{world} ranks: {}", stderr(&output));
        let listed = rows(root, &name);
        assert_eq!(indices(&listed), indices(&all), "{world} ranks list the images of the first part");
        assert_eq!(state(root, &name).bad_images.training.len(), all.len());
        let output = resume(&format!("limited-{world}"), world, all.len() - 1, "");
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{world} ranks: {text}");
        assert!(text.contains(&format!("too many training images are bad: {} of", all.len())), "{text}");
    }
    // Repaired images do not count.
    let good = images(root, "train/circle").pop().expect("an image");
    for path in &bad[1..] {
        fs::copy(&good, path).expect("copies");
    }
    for world in [1, 2] {
        let name = format!("repaired-{world}");
        let output = resume(&name, world, 1, "--allow-changed-data");
        assert!(output.status.success(), "{world} ranks: {}", stderr(&output));
        assert_eq!(state(root, &name).bad_images.training.len(), 1);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn image_that_cannot_be_opened_for_the_limit_of_open_files_is_not_bad() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    use std::time::{Duration, Instant};
    let folder = dataset();
    let root = folder.path();
    let flags = "--epochs 1 --epoch-repeats 5000 --experiment a --progress plain --log-interval 1";
    let log = root.join("stderr");
    let mut child = common::command(root, &format!("train shapes {TINY} {flags}"))
        .stderr(fs::File::create(&log).expect("a file"))
        .spawn()
        .expect("the binary starts");
    let pid = Pid::from_child(&child);
    // Limits are inherited.
    let inherited = getrlimit(Resource::Nofile);
    let set_limit = |current: Option<u64>| {
        prlimit(Some(pid), Resource::Nofile, Rlimit { current, ..inherited }).expect("it runs");
    };
    let updates = || fs::read_to_string(&log).expect("reads").matches("  batch ").count();
    let mut wait_for = |count: usize| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while updates() < count {
            assert!(
                Instant::now() < deadline,
                "{count} updates: {}",
                fs::read_to_string(&log).expect("reads")
            );
            assert!(
                child.try_wait().expect("a child").is_none(),
                "{}",
                fs::read_to_string(&log).expect("reads")
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait_for(1);
    // Below the number of open files: none can be opened.
    set_limit(Some(3));
    std::thread::sleep(Duration::from_secs(1));
    let paused = updates();
    set_limit(inherited.current);
    wait_for(paused + 5);
    set_limit(Some(3));
    let status = child.wait().expect("ends");
    let text = fs::read_to_string(&log).expect("reads");
    assert_eq!(status.code(), Some(7), "{text}");
    assert!(text.contains("Too many open files") && text.contains("ulimit -n"), "{text}");
    assert!(!root.join("out/a/bad_images.csv").exists() && !text.contains("cannot be read and"), "{text}");
}
