//! Results on stdout and in files that the user names, and weights files of other formats.
mod common;

use common::{command, run, stderr, succeed};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

fn image() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/images/gray.png")
}

/// Results that cannot be written end the command with the code of a full disk.
#[cfg(target_os = "linux")]
#[test]
fn full_stdout_ends_with_exit_7() {
    let folder = tempfile::tempdir().expect("a folder");
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").expect("exists");
    for arguments in [
        "models resnet8",
        "models resnet8 --json",
        "schedule --csv",
        "doctor",
        "datasets list",
        "kernels list",
        "completions bash",
        "--help",
        "train --help",
        "train --epochs 1 --batch-size 512 --warmup-epochs 0 --progress none --json",
    ] {
        let output = command(folder.path(), arguments).stdout(full()).output().expect("starts");
        assert_eq!(output.status.code(), Some(7), "{arguments}: {}", stderr(&output));
    }
}

#[test]
fn closed_stdout_ends_quietly() {
    let folder = tempfile::tempdir().expect("a folder");
    for arguments in ["models", "schedule --csv --epochs 300", "datasets list", "--help"] {
        let mut child = command(folder.path(), arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("ends");
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()), "{arguments}");
    }
}

/// Every epoch has a line, and every line of --progress json is JSON.
#[test]
fn progress_has_a_line_for_each_epoch_and_notes_in_its_form() {
    let folder = tempfile::tempdir().expect("a folder");
    let train = "train --train-num-samples 64 --val-num-samples 16 --warmup-epochs 0 --epochs 3 --val-interval 3 --decay-epochs 90";
    let lines = |progress: &str| {
        let output = run(folder.path(), &format!("{train} --progress {progress}"));
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output).lines().map(String::from).collect::<Vec<_>>()
    };
    let plain = lines("plain");
    let of_epochs = plain.iter().filter(|line| line.starts_with("epoch ") && !line.contains("batch"));
    assert_eq!(of_epochs.count(), 3, "{plain:?}");
    for line in lines("json") {
        serde_json::from_str::<serde_json::Value>(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
    assert_eq!(lines("none"), [""; 0]);
}

/// Messages are lost, and the exit code is that of the command.
#[cfg(target_os = "linux")]
#[test]
fn full_stderr_changes_no_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = "train --train-num-samples 64 --val-num-samples 16 --warmup-epochs 0 --epochs 1";
    for (arguments, code) in [
        ("train --bogus".to_string(), 2),
        ("predict missing.png --model resnet8".to_string(), 2),
        (format!("{small} --threads 64 --progress plain"), 0),
        (format!("{small} --seeds 1,2 --dry-run"), 0),
        ("schedule --sched plateau".to_string(), 0),
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("exists");
        let output = command(folder.path(), &arguments).stderr(full).output().expect("starts");
        assert_eq!(output.status.code(), Some(code), "{arguments}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn outputs_replace_neither_devices_nor_links() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let folder = tempfile::tempdir().expect("a folder");
    // A user's device, made here where that is allowed; a link to the system's otherwise.
    symlink("/dev/full", folder.path().join("full.png")).expect("links");
    symlink("target.png", folder.path().join("link.png")).expect("links");
    let commands = |file: &str| {
        [
            format!("models save resnet8 {file}"),
            format!("schedule --plot {file}"),
            format!("datasets preview digits -o {file} --samples 4 --columns 2"),
            format!(
                "predict {} --model resnet8 --weights w.safetensors --features {file}",
                image().display()
            ),
        ]
    };
    succeed(folder.path(), "models save resnet8 w.safetensors --in-chans 1");
    for arguments in commands("full.png") {
        let output = run(folder.path(), &arguments);
        assert_eq!(output.status.code(), Some(7), "{arguments}: {}", stderr(&output));
        assert!(folder.path().join("full.png").is_symlink());
        assert!(fs::metadata("/dev/full").expect("exists").file_type().is_char_device());
    }
    for arguments in commands("link.png") {
        succeed(folder.path(), &arguments);
        assert!(folder.path().join("link.png").is_symlink(), "{arguments}");
        assert!(fs::metadata(folder.path().join("target.png")).expect("written").len() > 100, "{arguments}");
        fs::remove_file(folder.path().join("target.png")).expect("removes");
    }
}

#[test]
fn other_weights_formats_are_answered_with_their_conversion() {
    let folder = tempfile::tempdir().expect("a folder");
    let script =
        [b"PK\x03\x04".as_slice(), &[0; 60], b"archive/data.pkl archive/constants.pkl", &[0; 60]].concat();
    for (name, bytes, parts) in [
        ("w.pt", script, ["a TorchScript archive", "torch.jit.load('w.pt'", "'w.safetensors'"]),
        ("w.pkl", b"\x80\x02}q\0.".to_vec(), ["a Python pickle", "not of torch.save", "save its state dict"]),
        (
            "w.onnx",
            b"\x08\x08\x12\x07pytorch\x1a".to_vec(),
            ["an ONNX model", "onnx.load('w.onnx')", "'w.safetensors'"],
        ),
        ("w.zip", b"PK\x03\x04 nothing known".to_vec(), ["a zip archive", "safetensors format", "timm"]),
    ] {
        fs::write(folder.path().join(name), bytes).expect("writes");
        for arguments in [
            format!("predict {} --model resnet8 --weights {name}", image().display()),
            format!("train --dry-run --pretrained-path {name}"),
            format!("train --dry-run --initial-checkpoint {name}"),
            format!("train --dry-run --resume {name}"),
            format!("ckpt info {name}"),
            format!("ckpt verify {name}"),
        ] {
            let output = run(folder.path(), &arguments);
            let message = stderr(&output);
            assert_eq!(output.status.code(), Some(4), "{arguments}: {message}");
            for part in parts {
                assert!(message.contains(part), "{arguments}: {part:?} is missing in {message}");
            }
        }
    }
}

/// A weights file that shrinks while it is used gives an error, never a bus error.
#[cfg(unix)]
#[test]
fn truncated_weights_are_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), "models save resnet8 w.safetensors --in-chans 1");
    let path = folder.path().join("w.safetensors");
    let good = fs::read(&path).expect("reads");
    let file = fornax::weights::WeightsFile::open(&path).expect("opens");
    fs::write(&path, &good[..100]).expect("truncates");
    let weights = file.weights(false).expect("was read before");
    let names: Vec<String> = weights.names().cloned().collect();
    assert!(names.iter().all(|name| weights.tensor(name).is_ok()));
    let arguments = format!("predict {} --model resnet8 --weights w.safetensors", image().display());
    let output = run(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
}

#[test]
fn more_threads_than_cpus_warn() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), "models save resnet8 w.safetensors --in-chans 1");
    let arguments = format!("predict {} --model resnet8 --weights w.safetensors", image().display());
    let threads = std::thread::available_parallelism().map_or(1, usize::from) + 1;
    let output = run(folder.path(), &format!("{arguments} --threads {threads}"));
    assert!(output.status.success());
    let warning = format!("warning: --threads {threads} is more than the {} CPUs", threads - 1);
    assert!(stderr(&output).contains(&warning), "{}", stderr(&output));
    assert_eq!(stderr(&run(folder.path(), &format!("{arguments} --threads 1"))), "");
}

/// Paths that are not UTF-8 are read and shown with replacement characters.
#[cfg(target_os = "linux")]
#[test]
fn paths_that_are_not_utf8_do_not_panic() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), "models save resnet8 w.safetensors --in-chans 1");
    let name = OsStr::from_bytes(b"im\xffage.png");
    fs::copy(image(), folder.path().join(name)).expect("copies");
    fs::create_dir(folder.path().join(OsStr::from_bytes(b"fol\xffder"))).expect("creates");
    let predict = "predict --model resnet8 --weights w.safetensors --json --features f.safetensors --";
    let output = command(folder.path(), predict).arg(name).output().expect("starts");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("im\u{fffd}age.png"));
    for arguments in [
        "ckpt info",
        "ckpt verify",
        "ckpt diff w.safetensors",
        "models save resnet8",
        "schedule --plot",
        "train",
        "datasets info",
        "train --dry-run --output",
        "train --dry-run --initial-checkpoint",
        "train --resume",
        "train -c",
        "predict --weights",
    ] {
        for path in [name, OsStr::from_bytes(b"fol\xffder"), OsStr::from_bytes(b"\xff")] {
            let output = command(folder.path(), arguments).arg(path).output().expect("starts");
            let code = output.status.code();
            assert!(code.is_some_and(|code| code != 70), "{arguments} {path:?}: {}", stderr(&output));
        }
    }
}
