//! Checkpoints with right checksums and impossible values: each is an error that names the field, or harmless, but never a panic.
#[path = "common/checkpoint_state.rs"]
mod checkpoint_state;
mod common;
#[path = "common/parallel.rs"]
mod parallel;
#[path = "common/tiny_run.rs"]
mod tiny_run;

use checkpoint_state::{state, with_state};
use common::{run, stderr, succeed};
use fornax::callbacks::{Callback, ModelCheckpoint};
use fornax::checkpoint;
use fornax::config::Config;
use fornax::error::ErrorKind;
use fornax::experiment::{Experiment, RunCheckpoint, RunData};
use fornax::report::UpdateMetrics;
use fornax::settings::{DEFINITIONS, EvalMetric, Settings};
use fornax::weights::WeightsFile;
use fornax::{Error, Result};
use fornax_engine::Device;
use parallel::in_parallel;
use serde_json::{Value, json};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use tiny_run::{tiny_run, tiny_settings, tiny_splits};

/// Values, as JSON. `NaN` is not JSON, as in a file that another program wrote.
const VALUES: [&str; 8] = ["0", "-1", "2147483648", "1e300", "NaN", "null", "\"many\"", "[]"];

/// Ends a run after an update.
struct Stop(bool);

impl Callback for Stop {
    fn on_batch_end(&mut self, _: &UpdateMetrics) -> Result<()> {
        self.0 = true;
        Ok(())
    }

    fn stop_reason(&self) -> Option<String> {
        self.0.then(|| "for a test".into())
    }
}

/// The file of a checkpoint of a run that is stopped within its second epoch.
fn checkpoint_file() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut run = tiny_run(&Settings { model_ema: Some(true), mixup: Some(0.2), ..tiny_settings() });
    let header = run.checkpoint_header().expect("a dataset");
    run.callbacks.push(ModelCheckpoint::new(folder.path().into(), header, Device::Cpu, EvalMetric::Top1, 1));
    struct StopAt(bool);
    impl Callback for StopAt {
        fn on_batch_end(&mut self, metrics: &UpdateMetrics) -> Result<()> {
            self.0 |= metrics.update == 5;
            Ok(())
        }
        fn stop_reason(&self) -> Option<String> {
            self.0.then(|| "for a test".into())
        }
    }
    run.callbacks.push(StopAt(false));
    run.run().expect("trains");
    assert_eq!((run.state.epoch, run.state.batch), (1, 2));
    fs::read(folder.path().join("last.safetensors")).expect("reads")
}

/// The state as JSON, with a value at a path; a path of an absent field adds it.
fn changed(state: &Value, path: &[&str], value: &str) -> String {
    let mut state = state.clone();
    let mut field = &mut state;
    for name in path {
        field = match name.parse::<usize>() {
            Ok(index) => &mut field[index],
            Err(_) => &mut field[*name],
        };
    }
    *field = "@".into();
    state.to_string().replace("\"@\"", value)
}

/// Resumes a run from a checkpoint for an update.
fn resume(path: &Path) -> Result<()> {
    let checkpoint = checkpoint::read(path)?;
    let mut config = Config::resolve(&checkpoint.header.settings)?;
    config.ignore_dataset_options();
    let data = RunData::new(&mut config, tiny_splits())?;
    let mut run = Experiment::new(config);
    run.data = Some(data);
    run.resume = Some(RunCheckpoint { checkpoint, notes: vec![] });
    run.callbacks.push(Stop(false));
    run.run().map(drop)
}

/// Evaluates the weights of a checkpoint.
fn val(path: &Path) -> Result<()> {
    let file = WeightsFile::open(path)?;
    let identity = file.identity()?.expect("a checkpoint");
    let mut config = Config::resolve(&identity.settings)?;
    config.ignore_dataset_options();
    let data = RunData::new(&mut config, tiny_splits())?;
    let mut run = Experiment::new(config);
    run.data = Some(data);
    run.evaluate().map(drop)
}

/// Reads what `fornax ckpt info` prints.
fn info(path: &Path) -> Result<()> {
    let file = WeightsFile::open(path)?;
    let header = file.checkpoint_header()?.expect("a checkpoint");
    header.state.best(EvalMetric::Top1);
    file.identity().map(drop)
}

/// Use of a checkpoint.
type Use = fn(&Path) -> Result<()>;

/// Checks that a changed state is an error of the documented kinds, or harmless; the failure.
fn failure(file: &[u8], folder: &Path, name: &str, state: &str) -> Option<String> {
    let path = folder.join(format!("{}.safetensors", name.replace(['/', ' ', '"'], "_")));
    fs::write(&path, with_state(file, state)).expect("writes");
    let uses: [(&str, Use); 3] = [("resume", resume), ("info", info), ("val", val)];
    let failures =
        uses.into_iter().filter_map(|(what, act)| match catch_unwind(AssertUnwindSafe(|| act(&path))) {
            Ok(Ok(())) => None,
            Ok(Err(error)) if is_documented(&error) => None,
            Ok(Err(error)) => Some(format!("{name}, {what}: {error}")),
            Err(_) => Some(format!("{name}, {what}: panics")),
        });
    let failures: Vec<String> = failures.collect();
    fs::remove_file(&path).expect("removes");
    (!failures.is_empty()).then(|| failures.join("\n"))
}

/// An error of usage, data or checkpoint, or of a loss that is not finite with an extreme value.
fn is_documented(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Usage | ErrorKind::Data | ErrorKind::Checkpoint | ErrorKind::NonFinite)
}

fn assert_harmless(cases: &[(String, String)]) {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
    let file = checkpoint_file();
    let whole = folder.path().join("whole.safetensors");
    fs::write(&whole, with_state(&file, &state(&file).to_string())).expect("writes");
    for act in [resume, info, val] {
        act(&whole).expect("the undamaged checkpoint can be used");
    }
    let failures = Mutex::new(vec![]);
    in_parallel(cases.len(), |number| {
        let (name, state) = &cases[number];
        failures.lock().expect("no panic").extend(failure(&file, folder.path(), name, state));
    });
    let failures = failures.into_inner().expect("no panic");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn impossible_settings_never_panic() {
    let state = state(&checkpoint_file());
    let mut cases = vec![];
    let values =
        VALUES.iter().chain(&["[0]", "[-1]", "[2147483648, 2147483648, 2147483648]", "[1e300, 1e300]"]);
    for value in values {
        for definition in DEFINITIONS {
            let path = ["settings", definition.name];
            cases.push((format!("{} = {value}", definition.name), changed(&state, &path, value)));
        }
    }
    assert_harmless(&cases);
}

#[test]
fn impossible_progress_never_panics() {
    let original = state(&checkpoint_file());
    let mut paths: Vec<Vec<String>> = vec![];
    fn collect(value: &Value, path: &[String], paths: &mut Vec<Vec<String>>) {
        let below = |name: String| [path, &[name]].concat();
        match value {
            Value::Object(map) => {
                map.iter().for_each(|(name, value)| collect(value, &below(name.clone()), paths))
            }
            Value::Array(list) if list.len() < 5 => {
                list.iter()
                    .enumerate()
                    .for_each(|(index, value)| collect(value, &below(index.to_string()), paths));
            }
            _ => {}
        }
        paths.push(path.to_vec());
    }
    let top: Value = original
        .as_object()
        .expect("an object")
        .iter()
        .filter(|(name, _)| *name != "settings")
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into();
    collect(&top, &[], &mut paths);
    let absent = [
        "world_size",
        "state/uncounted",
        "state/plateau",
        "state/plateau/scale",
        "state/nonfinite",
        "conv_plans",
    ];
    paths.extend(absent.map(|path| path.split('/').map(String::from).collect()));
    assert!(paths.len() > 30, "{paths:?}");
    let values = VALUES.iter().chain(&["18446744073709551615", "4294967295", "{}", "[1, 2]"]);
    let mut cases = vec![];
    for value in values {
        for path in paths.iter().filter(|path| !path.is_empty()) {
            let names: Vec<&str> = path.iter().map(String::as_str).collect();
            cases.push((format!("{} = {value}", path.join("/")), changed(&original, &names, value)));
        }
    }
    assert_harmless(&cases);
}

#[test]
fn impossible_values_are_errors_that_name_the_field() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = checkpoint_file();
    let original = state(&file);
    let path = folder.path().join("last.safetensors");
    for (field, value, parts) in [
        ("settings/grad_accum_steps", "0", ["--grad-accum-steps", "between 1 and 4096"]),
        ("settings/train_batches_per_epoch", "0", ["--train-batches-per-epoch", "at least 1"]),
        ("settings/workers", "2147483648", ["--workers", "between 0 and 1024"]),
        ("settings/input_size", "[1, 8]", ["--input-size", "3 values"]),
        ("settings/lr", "NaN", ["its state", "expected value"]),
        ("state/epoch", "-1", ["its state", "expected u32"]),
        ("state/batch", "18446744073709551615", ["its state", "batch"]),
        ("state/batch", "5", ["its state", "an epoch has 4 batches"]),
        ("state/update", "18446744073709551615", ["its state", "update"]),
        ("state/update", "999", ["its state", "update 999"]),
        ("state/history/0/epoch", "7", ["its state", "history"]),
        ("state/history/0/eval_top1", "1e300", ["its state", "history"]),
        ("world_size", "0", ["its state", "world_size"]),
        ("statistics/std", "[0]", ["its state", "statistics.std"]),
    ] {
        let names: Vec<&str> = field.split('/').collect();
        fs::write(&path, with_state(&file, &changed(&original, &names, value))).expect("writes");
        let error = resume(&path).expect_err(field);
        assert_eq!(error.kind(), ErrorKind::Checkpoint, "{field} = {value}: {error}");
        for part in parts.iter().chain(&["last.safetensors"]) {
            assert!(error.to_string().contains(part), "{field} = {value}: {part} in {error}");
        }
    }
}

#[test]
fn commands_end_with_their_codes() {
    let folder = tempfile::tempdir().expect("a folder");
    let train = "train --model resnet8 --train-num-samples 16 --val-num-samples 16 --batch-size 4 --epochs 2 --warmup-epochs 0 \
        --progress none --output out --experiment a";
    succeed(folder.path(), train);
    let path = folder.path().join("out/a/checkpoints/last.safetensors");
    let file = fs::read(&path).expect("reads");
    let original = state(&file);
    for name in ["best", "checkpoint-0", "checkpoint-1"] {
        fs::remove_file(path.with_file_name(format!("{name}.safetensors"))).expect("removes");
    }
    for (name, value) in [
        ("grad_accum_steps", "0"),
        ("train_batches_per_epoch", "0"),
        ("workers", "2147483648"),
        ("epoch_repeats", "1e300"),
        ("prefetch", "2147483648"),
        ("epochs", "\"x\""),
    ] {
        fs::write(&path, with_state(&file, &changed(&original, &["settings", name], value))).expect("writes");
        for command in [
            "train --resume out/a --epochs 3",
            "ckpt info out/a/checkpoints/last.safetensors",
            "val --checkpoint out/a/checkpoints/last.safetensors",
        ] {
            let output = run(folder.path(), command);
            let code = output.status.code();
            // Passes over the training images matter to training alone.
            let expected: &[i32] = if name == "epoch_repeats" { &[0, 2] } else { &[4] };
            assert!(
                code.is_some_and(|code| expected.contains(&code)),
                "{name} = {value}, {command}: {}",
                stderr(&output)
            );
        }
    }
    fs::write(&path, with_state(&file, &json!(original).to_string())).expect("writes");
    assert!(
        run(folder.path(), "train --resume out/a --epochs 3").status.success(),
        "the undamaged state resumes"
    );
}
