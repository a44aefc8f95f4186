//! Losses, EMA, optimizers, schedules and regularisation in whole runs.
mod common;
#[path = "common/sweep.rs"]
mod sweep;

use common::{run, stderr, succeed};
use serde_json::Value;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use sweep::is_full_sweep;

fn json(stdout: &str) -> Value {
    serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON")
}

#[test]
fn bce_trains_digits_with_and_without_smoothing() {
    let folder = tempfile::tempdir().expect("a folder");
    // The mean over all elements has small gradients and needs a higher learning rate.
    for flags in
        ["--smoothing 0 --lr 1", "--smoothing 0.1 --bce-sum --bce-target-thresh 0.2 --bce-pos-weight 2"]
    {
        let line = format!("train --epochs 8 --bce-loss {flags} --progress none --output out --json");
        let result = json(&succeed(folder.path(), &line));
        assert!(result["top1"].as_f64().expect("a number") >= 95.0, "{flags}: {result}");
    }
}

/// A resumed run ends with the same bits as an uninterrupted one, EMA included; the EMA weights are evaluated.
#[test]
fn ema_is_evaluated_saved_and_resumed_exactly() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = "train --batch-size 128 --sched constant --model-ema --model-ema-decay 0.99 --output out --print-hash";
    let whole = succeed(folder.path(), &format!("{flags} --epochs 4 --experiment whole --progress none"));
    succeed(
        folder.path(),
        &format!("{flags} --epochs 2 --experiment parts --progress none --warmup-epochs 1"),
    );
    let resumed = succeed(folder.path(), "train --resume out/parts --epochs 4 --progress none --print-hash");
    assert_eq!(whole.lines().last(), resumed.lines().last());
    let bytes = fs::read(folder.path().join("out/whole/checkpoints/last.safetensors")).expect("reads");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    assert!(!header["ema/conv1.weight"].is_null() && !header["ema/bn1.running_mean"].is_null());

    let plain = succeed(
        folder.path(),
        &format!(
            "{} --epochs 4 --experiment plain --progress none",
            flags.replace("--model-ema --model-ema-decay 0.99", "")
        ),
    );
    assert_ne!(whole.lines().last(), plain.lines().last());
    let column = |run: &str, i: usize| {
        let text = fs::read_to_string(folder.path().join(format!("out/{run}/summary.csv"))).expect("reads");
        text.lines().skip(1).map(|l| l.split(',').nth(i).expect("a column").to_string()).collect::<Vec<_>>()
    };
    assert_eq!(column("whole", 1), column("plain", 1), "the EMA does not change the training");
    assert_ne!(column("whole", 2), column("plain", 2), "the EMA weights are evaluated");
    let log = fs::read_to_string(folder.path().join("out/whole/log.txt")).expect("reads");
    assert_eq!(log.matches("without EMA").count(), 4, "{log}");
}

/// Trains a few updates with further flags; the hash of the final state and stderr.
fn trained(folder: &std::path::Path, flags: &str) -> (String, String) {
    let train = "train --train-num-samples 32 --val-num-samples 8 --batch-size 8 --epochs 2 --progress plain --print-hash --json";
    let output = run(folder, &format!("{train} {flags}"));
    assert!(output.status.success(), "{flags}: {}", stderr(&output));
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    (result["sha256"].as_str().expect("a hash").to_string(), stderr(&output))
}

/// Toggles of timm's command lines whose partner is off: the run is the same, and one line says why.
#[test]
fn flags_without_effect_are_ignored_with_one_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    let ignored = "--model-ema-decay 0.9 --model-ema-warmup --layer-decay-min-scale 0.5 --bce-sum --mixup 0 --mixup-prob 0.5 \
                   --mixup-mode elem --decay-rate 0.97 --decay-epochs 2.4 --sync-bn --dist-bn broadcast --fast-norm --channels-last \
                   --pin-mem --torchcompile --amp-dtype bfloat16 --remode rand --opt adamw --momentum 0.8 --lr 0.01 --lr-base 0.05 \
                   --cuda-graph --device cpu --dist-timeout 9";
    let (plain, with) = (trained(folder.path(), "--opt adamw --lr 0.01"), trained(folder.path(), ignored));
    assert_eq!(plain.0, with.0);
    assert!(!plain.1.contains("warning"), "{}", plain.1);
    let warnings: Vec<&str> = with.1.lines().filter(|line| line.starts_with("warning:")).collect();
    let [warning] = warnings[..] else { panic!("one line: {}", with.1) };
    for part in [
        "without effect, and ignored: ",
        "--model-ema-decay, --model-ema-warmup (there is no EMA)",
        "--mixup-prob, --mixup-mode (neither mixup nor CutMix is on)",
        "--decay-epochs, --decay-rate (the schedule cosine does not use it)",
        "--sync-bn, --dist-bn",
        "(the run has one process)",
        "--amp-dtype (everything is computed in f32)",
        "--torchcompile (kernels are compiled and fused already)",
        "--channels-last (",
        "--cuda-graph (the run computes on the CPU)",
        "--dist-timeout",
    ] {
        assert!(warning.contains(part), "{part} is missing in {warning}");
    }
}

#[test]
fn asking_for_what_one_gets_is_no_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, text) = trained(
        folder.path(),
        "--no-aug --hflip 0 --vflip 0 --reprob 0 --no-sync-bn --mixup 0 --mixup-prob 1",
    );
    assert!(!text.contains("warning"), "{text}");
}

#[test]
fn contradictions_are_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    for (flags, what) in [
        ("--jsd-loss", "no augmentation splits"),
        ("--split-bn", "the batch has no splits"),
        ("--amp --opt-level O0", "--amp contradicts --opt-level O0"),
        ("--no-pretrained --pretrained-path w", "--no-pretrained is given"),
    ] {
        let output = run(folder.path(), &format!("train {flags}"));
        assert_eq!(output.status.code(), Some(2), "{flags}");
        assert!(stderr(&output).contains(what), "{flags}: {}", stderr(&output));
    }
}

/// The learning rate of the log is the schedule's, which layers scale.
#[test]
fn logged_learning_rate_is_that_of_the_schedule_under_layer_decay() {
    let folder = tempfile::tempdir().expect("a folder");
    let lrs = |name: &str, flags: &str| -> Vec<String> {
        trained(folder.path(), &format!("--output out --experiment {name} {flags}"));
        let text = fs::read_to_string(folder.path().join(format!("out/{name}/summary.csv"))).expect("reads");
        text.lines().filter_map(|line| line.rsplit(',').next().map(String::from)).collect()
    };
    assert_eq!(lrs("plain", ""), lrs("decay", "--layer-decay 0.5"));
}

#[test]
fn passes_of_an_epoch_of_more_batches_than_the_data_have_are_noted_in_the_plan() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = succeed(folder.path(), "train --dry-run --train-batches-per-epoch 400");
    let note = "the training images have 44 batches, so an epoch passes over them again";
    assert!(plan.contains(note) && plan.contains("of 400 updates"), "{plan}");
}

#[test]
fn every_default_of_timm_is_taken_and_stored_with_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan =
        succeed(folder.path(), "train --dry-run --defaults timm --model resnet18 --sched step --epochs 200");
    for part in [
        "defaults  timm",
        "defaults: \"timm\"",
        "decay_epochs: 90",
        "sched_on_updates: false",
        "input     224x224x3",
    ] {
        assert!(plan.contains(part), "{part} is missing in {plan}");
    }
    let own = succeed(folder.path(), "train --dry-run --model resnet18 --sched step --epochs 200");
    for part in ["defaults  fornax", "decay_epochs: 60", "sched_on_updates: true", "input     8x8x1"] {
        assert!(own.contains(part), "{part} is missing in {own}");
    }
}

/// Optimizers that are trained in every test run: one for each kind of update rule.
const USUAL_OPTIMIZERS: [&str; 4] = ["sgd", "lamb", "adafactor", "lookahead_adamw"];

/// Optimizers whose default learning rate is low for the digits. After 10 epochs they are at 94 to 98 % and still rising, depending on
/// the seed and on the CPU's vector width; after 20 they are above 98.8 % for every seed tried.
const SLOW_OPTIMIZERS: [&str; 2] = ["adamax", "radabelief"];

/// Every --opt with its default learning rate and weight decay; LARS with another trust coefficient.
#[test]
fn every_optimizer_trains_digits() {
    let all = || fornax::optim::optimizer_names().chain(["lookahead_sgd", "lookahead_adamw"]);
    assert!(USUAL_OPTIMIZERS.iter().all(|name| all().any(|known| known == *name)));
    let names = all().filter(|name| is_full_sweep() || USUAL_OPTIMIZERS.contains(name));
    let flags = names.map(|name| {
        let trust = if name.contains("lar") { " --opt-kwargs trust_coeff=0.02" } else { "" };
        let epochs = if SLOW_OPTIMIZERS.contains(&name) { 20 } else { 10 };
        format!("--epochs {epochs} --opt {name}{trust}")
    });
    assert_all_train_digits(flags.collect());
}

/// Trains the digits with each of these flags, one run per core at a time; each run reaches 95 %.
fn assert_all_train_digits(flags: Vec<String>) {
    let (folder, next) = (tempfile::tempdir().expect("a folder"), AtomicUsize::new(0));
    let work = || {
        while let Some(flags) = flags.get(next.fetch_add(1, Ordering::Relaxed)) {
            let line = format!("train {flags} --threads 1 --progress none --output out --json");
            let result = json(&succeed(folder.path(), &line));
            assert!(result["best_top1"].as_f64().expect("a number") >= 95.0, "{flags}: {result}");
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
}

/// Every --sched, with settings for a short run; without the full sweep every third.
#[test]
fn every_schedule_trains_digits() {
    let all = [
        "cosine",
        "cosine --lr-cycle-limit 2 --epochs 6",
        "tanh",
        "step",
        "multistep",
        "poly --decay-rate 1",
        "plateau --patience-epochs 1 --decay-rate 0.3",
        "exponential --decay-rate 0.8",
        "lambda --lr-lambda 0.8**epoch",
        "wsd",
        "rsqrt",
        "constant",
        "none --lr 0.03",
    ];
    let step = if is_full_sweep() { 1 } else { 3 };
    assert_all_train_digits(
        all.iter().step_by(step).map(|flags| format!("--epochs 16 --sched {flags}")).collect(),
    );
}

#[test]
fn regularised_models_train_and_save_their_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = "--drop 0.1 --drop-path 0.1 --drop-block 0.05 --bn-momentum 0.2 --bn-eps 1e-4 --gp avgmax --head-init-scale 0.1 --head-init-bias -1 --layer-decay 0.9";
    let line = format!("train --epochs 4 {flags} --progress none --output out --experiment a --json");
    let result = json(&succeed(folder.path(), &line));
    assert!(result["top1"].as_f64().expect("a number") > 80.0, "{result}");
    let yaml = fs::read_to_string(folder.path().join("out/a/args.yaml")).expect("reads");
    for setting in
        ["drop_path: 0.1", "layer_decay: 0.9", "gp: \"avgmax\"", "head_init_bias: -1", "bn_eps: 0.0001"]
    {
        assert!(yaml.contains(setting), "{setting} in {yaml}");
    }
}
