//! The `fornax` command: help, output files, determinism, resuming, precedence of settings, progress.
mod common;

use common::{command, run, stderr, succeed};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const QUICK: &str = "train --epochs 1 --batch-size 256 --warmup-epochs 0 --progress none --output out";

fn json(stdout: &str) -> Value {
    serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON")
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("lists");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Snapshots of the help texts; read them whole when they change.
#[test]
fn help_matches_snapshots() {
    let folder = tempfile::tempdir().expect("a folder");
    for (arguments, file) in [
        ("--help", "help.txt"),
        ("train --help", "train-help.txt"),
        ("train --help-all", "train-help-all.txt"),
        ("config --help", "config-help.txt"),
        ("schedule --help", "schedule-help.txt"),
        ("datasets --help", "datasets-help.txt"),
        ("models --help", "models-help.txt"),
        ("kernels --help", "kernels-help.txt"),
        ("predict --help", "predict-help.txt"),
        ("val --help", "val-help.txt"),
        ("ckpt --help", "ckpt-help.txt"),
        ("lr-find --help", "lr-find-help.txt"),
        ("completions --help", "completions-help.txt"),
    ] {
        assert_snapshot(&succeed(folder.path(), arguments), file);
    }
}

/// Snapshot of the messages of invalid command lines.
#[test]
fn usage_errors_match_snapshots() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = [
        "trian",
        "train --epoch 3",
        "train --epoch 3 --batchsize 4 --zzzz",
        "train --topk 3",
        "train --output-stride 16",
        "train --epochs 0",
        "train --epochs many",
        "train --epochs",
        "train --recount 17",
        "train --lr -1",
        "train --sched polly",
        "train --amp=maybe",
        "train --opt-betas 0.9",
        "train --device gpu",
        "train --jsd-loss",
        "train --log-wandb",
        "train --log-wandb --train-img-sizes 128 224",
        "train --crop-pct 95",
        "train --mean 123.675 116.28 103.53",
        "train --color-jitter 5",
        "train --lr 1e10",
        "train -c best.safetensors",
        "train --crop-pct 95 --recount 17 --sched polly",
        "train --seed -1",
        "train --learning-rate 0.1",
        "train --optimizer adam --num-workers 2 --imgsz 64 --wd 0.1",
        "train my photos",
        "train --lr-lambda 0.95 * epoch",
        "train --sched lambda --lr-lambda 0.95^epoch",
        "train --epochs 2 --lr",
        "train --model swin_tiny_patch4_window7_224",
        "train --model resnet19",
        "train --model-kwargs dorp_path_rate=0.1",
        "train --dataset tfds/imagenet2012",
        "train --model-dtype bfloat16 --amp",
        "train a b",
        "predict",
        "kernels",
    ];
    fs::write(folder.path().join("best.safetensors"), [8, 0, 0, 0, 0xff]).expect("writes");
    let errors = lines.iter().map(|line| {
        let output = run(folder.path(), line);
        assert_eq!(output.status.code(), Some(2), "{line}: {}", stderr(&output));
        format!("$ fornax {line}\n{}\n", stderr(&output))
    });
    assert_snapshot(&errors.collect::<String>(), "usage-errors.txt");
}

/// Compares with a snapshot; FORNAX_RECORD writes it.
#[track_caller]
fn assert_snapshot(text: &str, file: &str) {
    let snapshot = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(file);
    if std::env::var_os("FORNAX_RECORD").is_some() {
        fs::write(&snapshot, text).expect("writes");
    }
    let expected = fs::read_to_string(&snapshot).unwrap_or_default();
    assert!(text == expected, "the text differs from {}; it is:\n{text}", snapshot.display());
}

#[test]
fn run_writes_documented_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let result = json(&succeed(folder.path(), &format!("{QUICK} --experiment a --json")));
    for key in ["top1", "top5", "loss", "epochs", "seconds", "images_per_second", "output"] {
        assert!(!result[key].is_null(), "{key} in {result}");
    }
    let run = Path::new(result["output"].as_str().expect("a path")).to_path_buf();
    assert!(run.is_absolute() && run.ends_with("out/a"));
    let (events, others): (Vec<String>, Vec<String>) =
        entries(&run).into_iter().partition(|name| name.starts_with("events.out.tfevents."));
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(
        others.join(" "),
        ".lock args.yaml checkpoints env.json log.txt metrics.jsonl plots report.html samples summary.csv"
    );
    assert_eq!(
        entries(&run.join("checkpoints")),
        ["best.safetensors", "checkpoint-0.safetensors", "last.safetensors"]
    );
    let plots = ["accuracy", "confusion_matrix", "learning_rate", "loss"];
    let mut plots: Vec<String> =
        plots.iter().flat_map(|p| [format!("{p}.png"), format!("{p}.svg")]).collect();
    plots.push("confusion_matrix.json".into());
    plots.sort();
    assert_eq!(entries(&run.join("plots")), plots);
    let summary = fs::read_to_string(run.join("summary.csv")).expect("reads");
    assert!(summary.starts_with("epoch,train_loss,eval_loss,eval_top1,eval_top5,lr\r\n0,"), "{summary}");
    assert_eq!(summary.matches("\r\n").count(), 2);
}

/// `args.yaml` reproduces the run bit for bit; the number of threads makes no difference, the seed does.
#[test]
fn equal_settings_give_equal_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let hash = |arguments: &str| {
        let stdout = succeed(folder.path(), &format!("{arguments} --print-hash"));
        stdout.lines().last().expect("a line").to_string()
    };
    let first = hash(&format!("{QUICK} --experiment a --threads 1 --opt adamw"));
    assert_eq!(first.len(), 64);
    assert_eq!(
        first,
        hash("train -c out/a/args.yaml --threads 3 --progress none --output out --experiment b")
    );
    assert_ne!(first, hash("train -c out/a/args.yaml --seed 1 --progress none --output out --experiment c"));
    let files =
        ["a", "b"].map(|e| fs::read(folder.path().join(format!("out/{e}/checkpoints/last.safetensors"))));
    assert!(
        files[0].as_ref().expect("reads") == files[1].as_ref().expect("reads"),
        "equal states, equal files"
    );
}

/// A run that is interrupted or killed within an epoch and resumed ends with the same bits as an uninterrupted one.
#[cfg(unix)]
#[test]
fn resume_mid_epoch_matches_uninterrupted_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = "--epochs 4 --batch-size 64 --output out --log-interval 1 --print-hash";
    let whole = succeed(folder.path(), &format!("train {settings} --experiment whole --progress none"));
    for (signal, code) in [("INT", Some(130)), ("TERM", Some(143)), ("KILL", None)] {
        let again = format!("train {settings} --experiment {signal} --resume auto --progress none");
        let mut child = command(folder.path(), &again).spawn().expect("starts");
        let metrics = folder.path().join(format!("out/{signal}/metrics.jsonl"));
        let started = Instant::now();
        // Into the second epoch.
        while fs::read_to_string(&metrics).unwrap_or_default().lines().count() < 30 {
            assert!(started.elapsed() < Duration::from_secs(120), "no progress");
            std::thread::sleep(Duration::from_millis(2));
        }
        let id = child.id().to_string();
        let sent =
            std::process::Command::new("kill").args(["-s", signal, &id]).status().expect("kill exists");
        assert!(sent.success());
        assert_eq!(child.wait().expect("ends").code(), code, "{signal}");
        let resumed = succeed(folder.path(), &again);
        assert_eq!(whole.lines().last(), resumed.lines().last(), "{signal}");
        let read = |run: &str, file: &str| fs::read_to_string(folder.path().join("out").join(run).join(file));
        assert_eq!(read("whole", "summary.csv").expect("reads"), read(signal, "summary.csv").expect("reads"));
        let events = |run: &str, kind: &str| {
            read(run, "metrics.jsonl").expect("reads").matches(&format!("\"event\":\"{kind}\"")).count()
        };
        for kind in ["update", "epoch"] {
            assert_eq!(events("whole", kind), events(signal, kind), "{signal}: each {kind} once");
        }
        assert_eq!(events(signal, "start"), 2);
    }
}

#[test]
fn command_line_overrides_files_and_files_override_defaults() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("a.yaml"), "epochs: 7\nlr: 0.5\nseed: 1\n").expect("writes");
    fs::write(folder.path().join("b.yaml"), "lr: 0.25\n").expect("writes");
    let plan = succeed(folder.path(), "train --dry-run -c a.yaml -c b.yaml --seed 9 --no-warmup_prefix");
    for line in ["epochs: 7", "lr: 0.25", "seed: 9", "momentum: 0.9", "warmup_prefix: false"] {
        assert!(plan.lines().any(|l| l == line), "{line} in {plan}");
    }
    assert_eq!(entries(folder.path()), ["a.yaml", "b.yaml"], "a dry run writes nothing");
}

#[test]
fn progress_goes_to_stderr_in_the_chosen_mode() {
    let folder = tempfile::tempdir().expect("a folder");
    let show = |mode: &str| {
        let output = run(folder.path(), &format!("{} --log-interval 1", QUICK.replace("none", mode)));
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("top-1 "));
        stderr(&output)
    };
    let plain = show("auto");
    assert!(plain.contains("epoch 0/0  batch 5/5  loss ") && !plain.contains('\x1b'), "{plain}");
    let lines = show("json");
    let events: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(events.iter().filter(|e| e["event"] == "update").count(), 5);
    assert_eq!(show("none"), "");
}

/// Every value has its origin: a layer of the configuration, the dataset or the model.
#[test]
fn config_show_prints_values_with_their_origin() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("a.yaml"), "epochs: 7\nlr: 0.5\noutput: runs\nthreads: 1\n")
        .expect("writes");
    let shown = succeed(folder.path(), "config show -c a.yaml --lr 0.25 --opt sgd --device cpu");
    let rows: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    for row in [
        ["epochs", "7", "a.yaml, line 1"],
        ["lr", "0.25", "command line"],
        ["output", "runs", "a.yaml, line 3"],
        ["device", "cpu", "command line"],
        ["log_interval", "50", "default"],
        ["model", "resnet8", "dataset recipe"],
        ["input_size", "1 8 8", "dataset"],
        ["crop_mode", "center", "model"],
        ["momentum", "0.9", "optimizer"],
        ["seed", "42", "default"],
    ] {
        assert!(rows.contains(&row.to_vec()), "{row:?} in\n{shown}");
    }
    let derived = "config show --lr-base 0.2 --amp --img-size 32 --resume= --class-map= --output=";
    let shown = succeed(folder.path(), derived);
    for (name, origin) in [
        ("lr ", "lr_base, command line"),
        ("opt_level ", "amp, command line"),
        ("input_size ", "img_size, command line"),
        ("class_map ", "default"),
    ] {
        let row = shown.lines().find(|line| line.starts_with(name)).expect("a row");
        assert!(row.ends_with(origin), "{row}");
    }
    fs::write(folder.path().join("b.yaml"), "opt: adamw\nopt_betas: [0.8, 0.9]\n").expect("writes");
    let shown = succeed(folder.path(), "config show -c b.yaml --opt lamb");
    let row = shown.lines().find(|line| line.starts_with("opt_betas ")).expect("a row");
    assert!(row.ends_with("optimizer"), "{row}");
    assert_eq!(entries(folder.path()), ["a.yaml", "b.yaml"], "nothing is written");
}

#[test]
fn options_of_the_run_are_read_from_yaml() {
    let folder = tempfile::tempdir().expect("a folder");
    let yaml = "epochs: 1\nbatch_size: 256\nwarmup_epochs: 0\nprogress: none\noutput: out\nexperiment: a\njson: true\n";
    fs::write(folder.path().join("a.yaml"), yaml).expect("writes");
    let result = json(&succeed(folder.path(), "train -c a.yaml"));
    assert!(Path::new(result["output"].as_str().expect("a path")).ends_with("out/a"));
    let result = json(&succeed(folder.path(), "train -c a.yaml --experiment b"));
    assert!(
        Path::new(result["output"].as_str().expect("a path")).ends_with("out/b"),
        "the command line wins"
    );
    succeed(folder.path(), "train -c a.yaml --resume out/a --epochs 2");
}

#[test]
fn options_without_effect_are_ignored_with_one_warning_from_every_source() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("a.yaml"), "mixup_prob: 0.5\npin_mem: true\n").expect("writes");
    let warning = "warning: without effect, and ignored: --mixup-prob (neither mixup nor CutMix is on); \
                   --channels-last (channels-last is the only memory layout); \
                   --pin-mem (batches go to a CUDA device through pinned memory)\n";
    for command in ["train --dry-run", "config show"] {
        let line = format!("{command} -c a.yaml --clip-mode norm --channels-last --decay-epochs 90");
        let output = run(folder.path(), &line);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stderr(&output), warning, "{command}");
    }
}

#[test]
fn help_all_works_with_every_command() {
    let folder = tempfile::tempdir().expect("a folder");
    for command in ["val", "predict", "ckpt info", "models"] {
        let [all, help] =
            ["--help-all", "--help"].map(|flag| succeed(folder.path(), &format!("{command} {flag}")));
        assert_eq!(all, help, "{command}");
    }
}

#[test]
fn short_help_has_the_usual_options() {
    let folder = tempfile::tempdir().expect("a folder");
    let help = succeed(folder.path(), "train --help");
    for flag in [
        "--pretrained-path",
        "--early-stop-patience",
        "--overwrite",
        "--class-map",
        "--tta",
        "--seeds",
        "--defaults",
    ] {
        assert!(help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}[")), "{flag}");
    }
    for flag in ["--bn-momentum", "--layer-decay"] {
        assert!(!help.contains(flag), "{flag}");
    }
}

#[test]
fn quotes_are_suggested_for_an_existing_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("my photos")).expect("creates");
    let output = run(folder.path(), "train --epochs 3 my photos");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("quote a path with spaces: \"my photos\""), "{}", stderr(&output));
}

#[test]
fn missing_split_lists_the_subfolders() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), "datasets export --dataset digits --format folder --output data");
    let output = run(folder.path(), "train data --train-split trian --dry-run");
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("its subfolders are train, val"), "{}", stderr(&output));
}

#[test]
fn trial_run_has_one_batch_by_default() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = succeed(folder.path(), "train --fast-dev-run --progress none --json");
    assert!(json(&text)["top1"].is_number(), "{text}");
}

#[test]
fn doctor_lists_declared_kernels_in_the_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    let kernels = folder.path().join("fornax/kernels");
    fs::create_dir_all(&kernels).expect("a folder");
    for file in ["custom_affine_f32-sm_90-ab12", "softmax-sm_90-cd34"] {
        fs::write(kernels.join(file), [0; 40]).expect("a file");
    }
    let doctor =
        command(folder.path(), "doctor").env("XDG_CACHE_HOME", folder.path()).output().expect("it starts");
    let text = String::from_utf8(doctor.stdout).expect("UTF-8");
    let line = text.lines().find(|line| line.contains("kernel affine_f32")).expect("the kernel");
    assert!(line.contains("compiled for sm_90, 8 B in the cache"), "{line}");
    assert!(!text.contains("softmax"), "{text}");
}

#[test]
fn lists_show_models_datasets_libraries_and_kernels() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(succeed(folder.path(), "models").contains("resnet18"));
    assert!(succeed(folder.path(), "models --num-classes 1000").contains("11,689,512"));
    assert!(succeed(folder.path(), "datasets").contains("fashion-mnist"));
    let doctor = succeed(folder.path(), "doctor");
    for what in ["SIMD", "driver", "NVRTC", "cuBLASLt", "cuDNN", "NCCL", "kernel cache"] {
        assert!(doctor.contains(what), "{what} in {doctor}");
    }
    assert!(succeed(folder.path(), "kernels list").contains("batch_norm"));
}
