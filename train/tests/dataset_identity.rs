//! Identity of a dataset: ranks with equal images in different folders train together, and other images behind equal paths are noticed, by
//! ranks and by a resumed run.
mod common;
#[path = "common/processes.rs"]
#[allow(dead_code)]
mod processes;
#[path = "common/ranks.rs"]
#[allow(dead_code)]
mod ranks;
#[allow(dead_code)]
#[path = "../examples/shapes_dataset.rs"]
mod shapes;
#[path = "common/small_dataset.rs"]
#[allow(dead_code)]
mod small_dataset;

use common::{run, stderr, succeed};
use processes::Ranks;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const TINY: &str = "--model resnet8 --img-size 16 --batch-size 16 --epochs 2 --warmup-epochs 0 --lr 0.05 --workers 1 --threads 1 \
    --output out --progress none";

/// Writes 100 images of ten classes.
fn write_shapes(folder: &Path) {
    shapes::write(folder, 100).expect("writes");
}

/// An image of a class in the training split of a dataset.
fn training_image(dataset: &Path, class: &str) -> PathBuf {
    let entries = fs::read_dir(dataset.join("train").join(class)).expect("lists");
    entries.map(|entry| entry.expect("an entry").path()).min().expect("an image")
}

/// Replaces an image by one of another class.
fn replace_image(dataset: &Path) {
    fs::copy(training_image(dataset, "ring"), training_image(dataset, "circle")).expect("copies");
}

#[test]
fn ranks_with_equal_images_in_different_folders_train_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let copies = ["scratch.node0/data", "scratch.node1/job.7/data"];
    copies.iter().for_each(|copy| write_shapes(&folder.path().join(copy)));
    let arguments = |rank: usize| format!("train {} {TINY} --experiment equal --print-hash", copies[rank]);
    let mut ranks = Ranks::start(folder.path(), "equal", 2, arguments);
    for rank in 0..2 {
        let status = ranks.wait(rank, Duration::from_secs(120));
        assert!(status.success(), "rank {rank}: {}", ranks.text(rank, "err"));
    }
    // One image of one copy is another one.
    replace_image(&folder.path().join(copies[1]));
    let arguments = |rank: usize| format!("train {} {TINY} --experiment other", copies[rank]);
    let mut ranks = Ranks::start(folder.path(), "other", 2, arguments);
    for rank in 0..2 {
        let (status, text) = (ranks.wait(rank, Duration::from_secs(120)), ranks.text(rank, "err"));
        assert_eq!(status.code(), Some(2), "rank {rank}: {text}");
        assert!(text.contains("the ranks differ in their dataset"), "{text}");
        assert!(text.contains("of image files"), "{text}");
        assert!(!text.contains("scratch"), "the path is no difference: {text}");
    }
    assert!(!folder.path().join("out/other").exists());
}

#[test]
fn replaced_training_image_needs_consent_and_keeps_the_order_of_samples() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write_shapes(&root.join("shapes"));
    succeed(root, &format!("train shapes {TINY} --experiment a"));
    replace_image(&root.join("shapes"));
    let output = run(root, "train --resume out/a --epochs 3");
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("the training data have changed"), "{}", stderr(&output));
    let output = run(root, "train --resume out/a --epochs 3 --allow-changed-data --progress plain");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("files of training images have changed"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("starts again"), "{}", stderr(&output));
}
