//! Options of resumed runs: the same options again continue a run as if it had not been interrupted, and other ones are listed or rejected.
mod common;
#[path = "common/parallel.rs"]
mod parallel;
#[path = "common/small_dataset.rs"]
mod small_dataset;

#[path = "flag_effects/arguments.rs"]
mod arguments;
#[path = "resume_options/cases.rs"]
mod cases;
#[path = "flag_effects/files.rs"]
mod files;

use arguments::settings;
use cases::{CASES, Case, Change, WITHOUT_CASE};
use common::{command, run, stderr, succeed};
use fornax::Result;
use fornax::callbacks::{Callback, ModelCheckpoint};
use fornax::checkpoint::{self, Checkpoint};
use fornax::config::Config;
use fornax::error::ErrorKind;
use fornax::experiment::{Experiment, OptionChange, RunCheckpoint};
use fornax::nn::{Module, state_entries};
use fornax::report::UpdateMetrics;
use fornax::settings::{DEFINITIONS, EvalMetric, OnResume, SettingDefinition, Settings, definition};
use fornax_engine::Device;
use parallel::in_parallel;
use serde_json::Value;
use small_dataset::write_small_dataset;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::{LazyLock, Mutex};

/// A run on few images in small batches: four per epoch.
const SHORT: &str = "--batch-size 4 --validation-batch-size 16";

/// Settings of a case's arguments. The files that they name exist.
fn arguments_of(text: &str) -> Settings {
    static FILES: LazyLock<()> = LazyLock::new(|| {
        let same = files::root().join("same");
        for split in ["train", "validation", "other"] {
            for class in ["a", "b"] {
                let from = files::root().join("photos").join(split).join(class);
                let to = same.join(split).join(class);
                fs::create_dir_all(&to).expect("creates");
                for file in fs::read_dir(from).expect("lists") {
                    let file = file.expect("an entry");
                    fs::copy(file.path(), to.join(file.file_name())).expect("copies");
                }
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let mut run = experiment(&settings(&format!("photos {SHORT} --epochs 1")));
        save_to(&mut run, folder.path());
        run.run().expect("trains");
        let weights = files::root().join("weights.safetensors");
        fs::copy(folder.path().join("last.safetensors"), weights).expect("copies");
    });
    if text.contains("ROOT") {
        LazyLock::force(&FILES);
    }
    let (dataset, rest) = match text.split_once(' ') {
        Some((first, rest)) if !first.starts_with('-') => (first, rest),
        None if !text.starts_with('-') => (text, ""),
        _ => ("", text),
    };
    let few = if dataset.is_empty() { "--train-num-samples 16 --val-num-samples 16" } else { "" };
    settings(&format!("{dataset} {SHORT} {few} {rest}"))
}

fn experiment(settings: &Settings) -> Experiment {
    let mut config = Config::resolve(settings).unwrap_or_else(|error| panic!("{settings:?}: {error}"));
    config.ignore_dataset_options();
    Experiment::new(config)
}

/// Saves the checkpoints of a run to a folder.
fn save_to(run: &mut Experiment, folder: &Path) {
    fs::create_dir_all(folder).expect("creates");
    let header = run.checkpoint_header().expect("a dataset");
    run.callbacks.push(ModelCheckpoint::new(folder.into(), header, Device::Cpu, EvalMetric::Top1, 1));
}

/// Ends a run after so many updates and the one that is queued, or after the first epoch.
struct Stop {
    updates: Option<u64>,
    is_over: bool,
}

impl Callback for Stop {
    fn on_batch_end(&mut self, metrics: &UpdateMetrics) -> Result<()> {
        self.is_over |= self.updates.is_some_and(|updates| metrics.update >= updates);
        Ok(())
    }

    fn on_epoch_end(&mut self, _: &fornax::callbacks::EpochEnd) -> Result<()> {
        self.is_over |= self.updates.is_none();
        Ok(())
    }

    fn stop_reason(&self) -> Option<String> {
        self.is_over.then(|| "for a test".into())
    }
}

/// The checkpoint of a run that is stopped after so many updates, or after the first epoch.
fn stopped(settings: &Settings, updates: Option<u64>) -> Checkpoint {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
    let mut run = experiment(settings);
    save_to(&mut run, folder.path());
    run.callbacks.push(Stop { updates, is_over: false });
    run.run().unwrap_or_else(|error| panic!("{settings:?}: {error}"));
    checkpoint::read(&folder.path().join("last.safetensors")).expect("reads")
}

/// A run of these options over the options of a checkpoint, from which it is resumed.
fn resumed(given: &Settings, checkpoint: Checkpoint) -> Result<Experiment> {
    let merged = given.clone().over(checkpoint.header.settings.clone());
    let mut config = Config::resolve(&merged)?;
    config.ignore_dataset_options();
    let mut run = Experiment::new(config);
    run.resume = Some(RunCheckpoint { checkpoint, notes: vec![] });
    run.build()?;
    Ok(run)
}

fn with(case: &Case) -> Settings {
    arguments_of(&format!("{} {}", case.base, case.with))
}

#[test]
fn every_option_has_a_case() {
    for SettingDefinition { name, .. } in DEFINITIONS {
        let cases = CASES.iter().filter(|case| case.name == *name).count();
        let is_without = WITHOUT_CASE.iter().any(|(of, _)| of == name);
        assert_eq!(cases + usize::from(is_without), 1, "{name}: add a case to resume_options/cases.rs");
    }
    for case in CASES {
        let given = with(case).given();
        assert!(given.contains_key(case.name), "{}: {}", case.name, case.with);
        let own = arguments_of(case.base);
        assert_ne!(own.given().get(case.name), given.get(case.name), "{} has another value", case.name);
    }
}

/// Checks that a run that is stopped within an epoch ends with the state of an uninterrupted run, by its own options and without options.
fn check_continues(name: &str, given: &Settings) {
    let mut whole = experiment(given);
    whole.run().unwrap_or_else(|error| panic!("{name}: {error}"));
    let expected = (whole.hash().expect("hashes"), whole.state.clone());
    // With a large --grad-accum-steps the first update is the only one.
    let checkpoint = || stopped(given, Some(1));
    for options in [given, &Settings::default()] {
        let mut run = resumed(options, checkpoint()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(run.changes(), [], "{name}: the options are the run's");
        if options == given {
            assert_eq!(run.config.ignored, whole.config.ignored, "{name}: ignored options");
        }
        run.run().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((run.hash().expect("hashes"), run.state), expected, "{name}");
    }
}

#[test]
fn same_options_again_continue_the_run() {
    let started = std::time::Instant::now();
    in_parallel(CASES.len(), |number| check_continues(CASES[number].name, &with(&CASES[number])));
    eprintln!("{} options continue their runs, {} s", CASES.len(), started.elapsed().as_secs());
}

/// The flag of an option.
fn flag(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

/// Checks the result of resuming a case's run with its option, within an epoch or at the start of one.
fn failure(case: &Case, is_within_epoch: bool) -> Option<String> {
    let checkpoint = stopped(&arguments_of(case.base), is_within_epoch.then_some(1));
    assert_eq!(checkpoint.header.state.batch > 0, is_within_epoch, "{}", case.name);
    let name = flag(case.name);
    let result = resumed(&with(case), checkpoint).map(|run| run.changes().to_vec());
    let expected = match (case.change, definition(case.name).on_resume) {
        (Change::AsDefined, OnResume::Accepted) => Change::ListedAs(""),
        (Change::AsDefined, OnResume::Rejected(why)) => Change::Error(ErrorKind::Usage, why),
        (Change::AsDefined, OnResume::AtEpochStart(why)) if is_within_epoch => {
            Change::Error(ErrorKind::Usage, why)
        }
        (Change::AsDefined, OnResume::AtEpochStart(_)) => Change::ListedAs(""),
        (other, _) => other,
    };
    let is_listed = |changes: &[OptionChange], option: &str| {
        changes.iter().any(|change| change.option == option && change.from != change.to)
    };
    let is_right = match (expected, &result) {
        (Change::ListedAs(""), Ok(changes)) => is_listed(changes, &name),
        (Change::ListedAs(option), Ok(changes)) => is_listed(changes, option),
        (Change::None, Ok(changes)) => changes.is_empty(),
        (Change::Error(kind, part), Err(error)) => {
            let is_named = !matches!(case.change, Change::AsDefined) || error.to_string().contains(&name);
            error.kind() == kind && is_named && error.to_string().contains(part)
        }
        _ => false,
    };
    let result = result.map_err(|error| error.to_string());
    (!is_right)
        .then(|| format!("{name} within an epoch: {is_within_epoch}: expected {expected:?}, not {result:?}"))
}

#[test]
fn changed_options_are_listed_or_rejected_as_defined() {
    let failures = Mutex::new(vec![]);
    let is_of_epoch = |case: &Case| matches!(definition(case.name).on_resume, OnResume::AtEpochStart(_));
    let both: Vec<(&Case, bool)> = CASES
        .iter()
        .flat_map(|case| [(case, true), (case, false)])
        .filter(|(case, is_within_epoch)| *is_within_epoch || is_of_epoch(case))
        .collect();
    in_parallel(both.len(), |number| {
        let (case, is_within_epoch) = both[number];
        failures.lock().expect("no panic").extend(failure(case, is_within_epoch));
    });
    let failures = failures.into_inner().expect("no panic");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn options_passed_at_their_stored_values_are_no_change() {
    let given = arguments_of("photos --mixup 0.2 --model-ema");
    let stored = stopped(&given, Some(1)).header.settings;
    let run = resumed(&stored, stopped(&given, Some(1))).expect("the same settings");
    assert_eq!(run.changes(), []);
    let default = Settings {
        aug_repeats: Some(0),
        clip_mode: None,
        smoothing: stored.smoothing,
        ..Settings::default()
    };
    assert_eq!(resumed(&default, stopped(&given, Some(1))).expect("defaults").changes(), []);
}

#[test]
fn changed_number_of_updates_per_epoch_keeps_the_learning_rates_of_the_epochs() {
    let given = arguments_of("");
    let changed = Settings { train_batches_per_epoch: Some(2), ..given.clone() };
    let mut run = resumed(&changed, stopped(&given, None)).expect("at the start of an epoch");
    assert_eq!(
        (run.state.epoch, run.state.batch, run.state.update),
        (1, 0, 2),
        "as if both epochs had 2 updates"
    );
    let lrs = fornax::callbacks::LrRecorder::default();
    run.callbacks.push(lrs.clone());
    run.run().expect("trains");
    let mut whole = experiment(&changed);
    let expected = fornax::callbacks::LrRecorder::default();
    whole.callbacks.push(expected.clone());
    whole.run().expect("trains");
    assert_eq!(lrs.lrs(), expected.lrs()[2..]);
    assert_eq!((run.state.epoch, run.state.update), (2, 4));
}

#[test]
fn changed_sample_order_is_accepted_with_the_start_of_the_epoch() {
    let given = arguments_of("");
    let changed = Settings { aug_repeats: Some(2), ..Settings::default() };
    let error = resumed(&changed, stopped(&given, Some(1))).err().expect("within an epoch").to_string();
    assert!(error.contains("--start-epoch 0"), "{error}");
    let again = Settings { start_epoch: Some(0), ..changed };
    let run = resumed(&again, stopped(&given, Some(1))).expect("the epoch starts again");
    assert_eq!((run.state.epoch, run.state.batch, run.state.update), (0, 0, 0));
    assert!(run.changes().iter().any(|change| change.option == "--aug-repeats"));
}

/// The values of a model's state, as f32.
fn values(model: &dyn Module) -> Vec<f32> {
    let floats = state_entries(model).into_iter().filter(|entry| entry.tensor.dtype().is_float());
    floats.flat_map(|entry| entry.tensor.to_vec::<f32>().expect("f32")).collect()
}

#[test]
fn ema_that_starts_at_a_resume_starts_from_the_weights_of_the_checkpoint() {
    let given = arguments_of("--sched constant");
    let mut plain = experiment(&given);
    plain.run().expect("trains");
    let with_ema = Settings { model_ema: Some(true), model_ema_decay: Some(0.75), ..given.clone() };
    let checkpoint = || stopped(&given, Some(6));
    let mut run = resumed(&with_ema, checkpoint()).expect("an EMA may start");
    let listed: Vec<&str> = run.changes().iter().map(|change| change.option.as_str()).collect();
    assert_eq!(listed, ["--model-ema", "--model-ema-decay"]);
    let model = run.model.as_deref().expect("built");
    let mut average = values(model);
    assert_eq!(values(run.ema().expect("an EMA").model()), average);
    assert_eq!(run.state.update, 7);
    run.run().expect("trains");
    assert_eq!(run.state.update, 8, "one more update");
    let model = values(run.model.as_deref().expect("built"));
    assert_eq!(model, values(plain.model.as_deref().expect("built")), "the weights do not depend on the EMA");
    average.iter_mut().zip(&model).for_each(|(average, weight)| *average = 0.75 * *average + 0.25 * weight);
    let of_run = values(run.ema().expect("an EMA").model());
    let difference = of_run.iter().zip(&average).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-5, "{difference}");
    assert!(of_run != model);
}

#[test]
fn ema_that_ends_at_a_resume_leaves_the_weights_as_without_it() {
    let given = arguments_of("");
    let mut plain = experiment(&given);
    plain.run().expect("trains");
    let with_ema = Settings { model_ema: Some(true), ..given.clone() };
    let without = Settings { model_ema: Some(false), ..given };
    let mut run = resumed(&without, stopped(&with_ema, Some(6))).expect("an EMA may end");
    assert!(
        run.changes()
            .iter()
            .any(|change| (change.option.as_str(), change.to.as_str()) == ("--model-ema", "false"))
    );
    run.run().expect("trains");
    assert!(run.ema().is_none());
    assert_eq!(run.hash().expect("hashes"), plain.hash().expect("hashes"));
    // The EMA of another resume starts anew.
    assert_eq!(run.state.history.last().expect("evaluated").model_eval_top1, None);
}

const RUN: &str = "train --dataset idx --data-dir small --model resnet8 --batch-size 4 --epochs 2 --warmup-epochs 0 --log-interval 1 \
    --progress plain --output out --threads 1 --workers 0 --experiment";

/// Runs a command and ends it by SIGTERM after its third update.
fn interrupt(folder: &Path, arguments: &str) {
    let mut child =
        command(folder, arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let is_update =
        |line: &std::io::Result<String>| line.as_ref().is_ok_and(|line| line.contains("  batch "));
    assert!(lines.by_ref().filter(is_update).nth(2).is_some(), "{arguments}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    lines.for_each(drop);
    let status = child.wait().expect("a child");
    assert_eq!(status.code(), Some(143), "{arguments}");
}

#[test]
fn command_line_with_another_name_of_a_level_continues_after_sigterm() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    for (number, options) in
        ["--model-dtype bfloat16", "--drop-connect 0.2", "--opt-level O2 --amp-dtype bfloat16"]
            .iter()
            .enumerate()
    {
        let line = |name: &str| format!("{RUN} {name}{number} {options}");
        let hash = |line: &str| succeed(folder.path(), line).lines().last().expect("a hash").to_string();
        let expected = hash(&format!("{} --print-hash", line("whole")));
        interrupt(folder.path(), &line("a"));
        let output = run(folder.path(), &format!("{} --resume auto --print-hash", line("a")));
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{options}: {message}");
        assert!(!message.contains("changed since") && !message.contains("ignored"), "{options}: {message}");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).lines().last(),
            Some(expected.as_str()),
            "{options}"
        );
        assert!(!folder.path().join(format!("out/a{number}/args.1.yaml")).exists());
    }
}

#[test]
fn changes_are_listed_in_the_files_of_the_run_and_earlier_options_are_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    interrupt(folder.path(), &format!("{RUN} a --lr 0.1"));
    let run_folder = folder.path().join("out/a");
    let read = |name: &str| fs::read_to_string(run_folder.join(name)).unwrap_or_default();
    let files = || {
        let names = fs::read_dir(&run_folder).expect("lists").map(|entry| entry.expect("an entry").path());
        names
            .filter(|path| path.is_file())
            .map(|path| (path.clone(), fs::read(path).expect("reads")))
            .collect::<Vec<_>>()
    };
    let before = files();
    for (options, part) in [
        ("--aug-repeats 3", "--aug-repeats cannot change within an epoch"),
        ("--batch-size 2", "--batch-size cannot change within an epoch"),
        ("--gp max", "--gp cannot change within a run"),
        ("--num-classes 12", "--num-classes cannot change within a run"),
        ("--in-chans 3", "--in-chans cannot change within a run"),
        ("--amp", "loss scaling cannot start within a run"),
    ] {
        let output = run(folder.path(), &format!("train --resume out/a --progress none {options}"));
        assert_eq!(output.status.code(), Some(2), "{options}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(part) && stderr(&output).contains("\n  why "),
            "{}",
            stderr(&output)
        );
        assert!(files() == before, "{options} changed a file");
    }
    let line = "train --resume out/a --lr 0.05 --mean 0.25 --workers 1 --threads 2 --log-interval 2 --progress plain";
    let output = run(folder.path(), line);
    assert!(output.status.success(), "{}", stderr(&output));
    let note = "note: changed since the checkpoint: ";
    let lines: Vec<String> =
        stderr(&output).lines().filter(|line| line.starts_with(note)).map(String::from).collect();
    assert_eq!(lines.len(), 1, "{}", stderr(&output));
    for part in [
        "--lr 0.1 → 0.05",
        "--mean ",
        " → 0.25",
        "--workers 0 → 1",
        "--threads 1 → 2",
        "--log-interval 1 → 2",
    ] {
        assert!(lines[0].contains(part), "{part} in {}", lines[0]);
    }
    assert!(read("log.txt").lines().any(|line| line == lines[0]));
    let events = files::events(&run_folder, "options");
    assert_eq!(events.len(), 1, "{events:?}");
    let lr =
        events[0]["changed"].as_array().expect("a list").iter().find(|change| change["option"] == "--lr");
    assert_eq!(
        lr.map(|change| (&change["from"], &change["to"])),
        Some((&Value::from("0.1"), &Value::from("0.05")))
    );
    assert!(read("args.1.yaml").contains("lr: 0.1\n") && read("args.yaml").contains("lr: 0.05\n"));
    let env: Value = serde_json::from_str(&read("env.json")).expect("JSON");
    assert_eq!((&env["threads"], &env["resumed"][0]["threads"]), (&Value::from(1), &Value::from(2)));
    // Unchanged options add nothing.
    let again = run(folder.path(), &format!("{line} --epochs 2"));
    assert!(again.status.success() && !stderr(&again).contains(note), "{}", stderr(&again));
    assert!(!run_folder.join("args.2.yaml").exists());
    succeed(folder.path(), &format!("{RUN} a --overwrite"));
    assert!(!run_folder.join("args.1.yaml").exists(), "--overwrite removes the earlier options");
}

#[test]
fn copied_run_names_the_option_of_the_dataset() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    interrupt(folder.path(), &format!("{RUN} a"));
    let elsewhere = tempfile::tempdir().expect("a folder");
    let copy = elsewhere.path().join("copy/checkpoints");
    fs::create_dir_all(&copy).expect("creates");
    for name in ["args.yaml", "checkpoints/last.safetensors"] {
        fs::copy(folder.path().join("out/a").join(name), elsewhere.path().join("copy").join(name))
            .expect("copies");
    }
    fs::rename(folder.path().join("small"), elsewhere.path().join("data")).expect("moves");
    let output = run(elsewhere.path(), "train --resume copy --progress none");
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("--data-dir DIR"), "{}", stderr(&output));
    let output = run(elsewhere.path(), "train data --resume copy --progress plain");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("changed since the checkpoint: --data-dir "), "{}", stderr(&output));
}
