//! Invalid input: one clear error each, the documented exit code, and no files left behind.
mod common;

use common::{run, stderr, succeed};
use std::fs;
use std::path::Path;

/// Runs with invalid input; checks the exit code, the parts of the message, and that no file was created.
#[track_caller]
fn assert_rejected(folder: &Path, arguments: &str, code: i32, parts: &[&str]) {
    let before = tree(folder);
    let output = run(folder, arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments}: {message}");
    for part in parts {
        assert!(message.contains(part), "{arguments}: {part:?} is missing in\n{message}");
    }
    assert!(
        message.starts_with("error: ") && message.matches("error").count() <= 2,
        "{arguments}: {message}"
    );
    assert!(output.stdout.is_empty(), "{arguments} wrote results");
    assert_eq!(before, tree(folder), "{arguments} left something behind");
}

fn tree(folder: &Path) -> Vec<String> {
    let mut names = vec![];
    for entry in fs::read_dir(folder).expect("lists") {
        let path = entry.expect("an entry").path();
        names.push(path.display().to_string());
        if path.is_dir() {
            names.extend(tree(&path));
        }
    }
    names.sort();
    names
}

#[test]
fn invalid_flags_and_values_are_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    let cases: [(&str, &[&str]); 26] = [
        ("train --epoch 3", &["--epoch", "--epochs"]),
        ("train --epochs many", &["many", "--epochs"]),
        ("train --epochs 0", &["--epochs", "must be at least 1"]),
        ("train --lr -1", &["--lr", "-1", "must be between 0 and 1000"]),
        ("train --lr=nan", &["must be between 0 and 1000"]),
        ("train --smoothing 1", &["below 1"]),
        ("train --opt sdg", &["sdg", "sgd"]),
        ("train --sched polly", &["poly", "cosine"]),
        ("train --dataset fashion-mist", &["fashion-mist", "did you mean \"fashion-mnist\""]),
        ("train --model resnet19", &["resnet19", "did you mean resnet18"]),
        ("train --batch-size 2000", &["2,000", "1,438", "choose at most"]),
        ("train --model resnet18 --batch-size 1", &["cannot train on one image", "choose at least 2"]),
        ("train --experiment a/b", &["is not a folder name"]),
        ("train --resume auto", &["--resume auto needs --experiment"]),
        ("train x --data-dir x", &["given twice", "use one of the two"]),
        (
            "train --epoch 3 --batchsize 4 --zzzz",
            &["3 unknown options", "--epochs?", "--batch-size?", "--zzzz\n"],
        ),
        ("train --output-stride 16", &["--model-kwargs output_stride=VALUE"]),
        ("train --topk 3", &["it is an option of `fornax "]),
        ("predict x --color-jitter 0.4", &["it is an option of `fornax train`"]),
        ("trian", &["unknown command \"trian\"", "did you mean \"train\"?"]),
        ("train --recount 17", &["must be between 1 and 16"]),
        ("train --threads 0", &["--threads", "must be at least 1"]),
        ("train --lr", &["--lr", "a value is missing"]),
        ("train --workers 100000", &["--workers", "must be between 0 and 1024"]),
        ("train --start-epoch 500 --dry-run", &["--start-epoch", "500", "has 30 epochs"]),
        ("val --batch-size auto --checkpoint x", &["--batch-size auto is an option of `fornax train`"]),
    ];
    for (arguments, parts) in cases {
        assert_rejected(folder.path(), arguments, 2, parts);
    }
}

#[test]
fn invalid_configuration_files_are_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    let cases: [(&str, &[&str]); 4] = [
        ("lr: 0.1\nbatchsize: 8\n", &["c.yaml, line 2", "did you mean \"batch_size\""]),
        ("epochs: x\n", &["c.yaml, line 1", "\"x\" must be a whole number"]),
        ("[1, 2]\n", &["c.yaml", "not a YAML mapping"]),
        ("a: &a [*a\n", &["c.yaml"]),
    ];
    for (text, parts) in cases {
        fs::write(folder.path().join("c.yaml"), text).expect("writes");
        assert_rejected(folder.path(), "train -c c.yaml", 2, parts);
    }
    assert_rejected(folder.path(), "train -c none.yaml", 2, &["none.yaml", "no such file", "check the path"]);
}

/// Writes IDX files of four training and four validation images; `change` may damage a file.
fn idx(folder: &Path, change: impl Fn(&str, Vec<u8>) -> Vec<u8>) {
    for split in ["train", "t10k"] {
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<u8>>();
        let images = [words(&[0x803, 4, 8, 8]), (0..=255).collect()].concat();
        let labels = [words(&[0x801, 4]), vec![0, 1, 2, 9]].concat();
        let (a, b) = (format!("{split}-images-idx3-ubyte"), format!("{split}-labels-idx1-ubyte"));
        fs::write(folder.join(&a), change(&a, images)).expect("writes");
        fs::write(folder.join(&b), change(&b, labels)).expect("writes");
    }
}

#[test]
fn invalid_data_files_are_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_rejected(folder.path(), "train gone", 3, &["gone", "no such file or folder", "check the path"]);
    let train = "train --dataset mnist --data-dir .";
    assert_rejected(folder.path(), "train --dataset mnist", 2, &["needs --data-dir", "source"]);
    assert_rejected(folder.path(), "train --dataset mnist --data-dir gone", 3, &["gone", "no such folder"]);
    assert_rejected(folder.path(), train, 3, &["neither train-images-idx3-ubyte nor", "fornax datasets"]);
    type Change = fn(&mut Vec<u8>);
    let cases: [(&str, Change, &[&str]); 5] = [
        (
            "train-images-idx3-ubyte",
            |b| b.truncate(100),
            &["train-images-idx3-ubyte", "truncated: 84 of 256"],
        ),
        ("t10k-images-idx3-ubyte", |b| b[3] = 1, &["magic number is 0x00000801", "0x00000803"]),
        ("train-labels-idx1-ubyte", |b| b[8] = 10, &["train-labels", "label 0 is out of range", "it is 10"]),
        ("train-labels-idx1-ubyte", |b| b[7] = 3, &["too long"]),
        ("t10k-images-idx3-ubyte", |b| b[..2].copy_from_slice(&[0x1f, 0x8b]), &["t10k-images-idx3-ubyte"]),
    ];
    for (file, change, parts) in cases {
        idx(folder.path(), |name, mut bytes| {
            if name == file {
                change(&mut bytes);
            }
            bytes
        });
        assert_rejected(folder.path(), &format!("{train} --batch-size 4"), 3, parts);
    }
    idx(folder.path(), |_, bytes| bytes);
    assert_rejected(folder.path(), train, 2, &["larger than the dataset", "4 training images"]);
    let quick = "--batch-size 4 --epochs 1 --warmup-epochs 0 --progress none --output out";
    assert!(
        succeed(folder.path(), &format!("{train} {quick}")).contains("after 1 epoch in"),
        "the undamaged files train"
    );
}

#[test]
fn unusable_output_folders_are_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    let quick = "train --epochs 1 --batch-size 512 --warmup-epochs 0 --progress none --output";
    fs::create_dir_all(folder.path().join("out/used")).expect("creates");
    fs::write(folder.path().join("out/used/mine"), "mine").expect("writes");
    assert_rejected(
        folder.path(),
        &format!("{quick} out --experiment used"),
        2,
        &["out/used", "--overwrite", "--resume"],
    );
    assert_rejected(folder.path(), &format!("{quick} out/used --experiment mine"), 2, &["is a file"]);
    assert_rejected(folder.path(), &format!("{quick} out/used/mine --experiment x"), 7, &["out/used/mine/x"]);
    assert_rejected(
        folder.path(),
        &format!("{quick} /proc/fornax"),
        7,
        &["cannot be written", "/proc/fornax"],
    );
    assert_rejected(
        folder.path(),
        "train --dry-run --output /proc/fornax",
        7,
        &["cannot be written", "/proc/fornax"],
    );
    succeed(folder.path(), &format!("{quick} out --experiment used --overwrite"));
    assert_eq!(fs::read_to_string(folder.path().join("out/used/mine")).expect("still there"), "mine");
}

#[test]
fn unusable_checkpoints_are_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(
        folder.path(),
        "train --epochs 1 --batch-size 512 --warmup-epochs 0 --progress none --output o --experiment a",
    );
    let last = folder.path().join("o/a/checkpoints/last.safetensors");
    let good = fs::read(&last).expect("reads");
    assert_rejected(folder.path(), "train --resume none", 4, &["none", "no such file", "check the path"]);
    assert_rejected(folder.path(), "train --resume o/a/args.yaml", 4, &["args.yaml", "safetensors"]);
    assert_rejected(
        folder.path(),
        "train --resume o/a --model resnet20",
        2,
        &["--model cannot change", "resnet8"],
    );
    assert_rejected(folder.path(), "train --resume o/a --seed 1", 2, &["--seed cannot change"]);
    // Without another checkpoint there is nothing to fall back to.
    for name in ["best", "checkpoint-0"] {
        fs::remove_file(folder.path().join(format!("o/a/checkpoints/{name}.safetensors"))).expect("removes");
    }
    for cut in [0, 7, 1000, good.len() - 1] {
        fs::write(&last, &good[..cut]).expect("writes");
        assert_rejected(folder.path(), "train --resume o/a", 4, &["last.safetensors", "start over"]);
    }
    // Flip a bit in the tensors and one in the state.
    let state = good.windows(7).position(|w| w == b"version").expect("the state");
    for at in [good.len() / 2, good.len() - 1, state + 2] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&last, &bad).expect("writes");
        assert_rejected(folder.path(), "train --resume o/a", 4, &["last.safetensors", "CRC32C"]);
    }
    fs::write(&last, &good).expect("writes");
    succeed(folder.path(), "train --resume o/a --epochs 1 --progress none");
}

/// A far too high learning rate ends the run with its own exit code and leaves a valid checkpoint.
#[test]
fn non_finite_loss_ends_run_and_keeps_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(
        folder.path(),
        "train --lr 1000 --weight-decay 1e30 --warmup-epochs 0 --progress none --output o --experiment a",
    );
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    assert!(stderr(&output).contains("lower --lr"), "{}", stderr(&output));
    let plan = succeed(folder.path(), "train --resume o/a --dry-run");
    assert!(plan.contains("resnet8"), "the checkpoint loads: {plan}");
}
