//! Checkpoints that are kept after each epoch, and the summary file.
use super::{GoldenCase, Outcome, Topic};
use fornax::callbacks::{Callback, ModelCheckpoint, RunSnapshot, SaveReason};
use fornax::checkpoint::files::{self, CheckpointName};
use fornax::checkpoint::history::CheckpointHistory;
use fornax::checkpoint::read;
use fornax::config::Config;
use fornax::experiment::Experiment;
use fornax::report::{EpochMetrics, summary_csv};
use fornax::settings::{EvalMetric, Settings};
use fornax::trainer::TrainerState;
use fornax_engine::Device;
use serde_json::Value;
use std::path::Path;

/// Runs every case of the topic.
pub fn check(topic: &Topic) -> Outcome {
    let mut run = Experiment::new(Config::resolve(&Settings::default()).map_err(|e| e.to_string())?);
    run.build().map_err(|e| e.to_string())?;
    let cases = topic.cases()?;
    let mut failures = vec![];
    for case in &cases {
        let checked = match case.op() {
            "checkpoint_history" => check_history(&mut run, case),
            "recovery_history" => check_recovery(&mut run, case),
            "summary" => check_summary(case),
            other => Err(format!("unknown operation {other}")),
        };
        failures.extend(checked.err().map(|why| format!("{}: {why}", case.id())));
    }
    if failures.is_empty() { Ok(cases.len()) } else { Err(failures.join("\n")) }
}

/// Ranked checkpoints, best and last, after the epochs of a case.
fn check_history(run: &mut Experiment, case: &GoldenCase) -> Result<(), String> {
    let params = &case.json["params"];
    let capacity = params["max_history"].as_u64().ok_or("no max_history")? as usize;
    let lower_is_better = params["lower_is_better"].as_bool().ok_or("no lower_is_better")?;
    let metric = if lower_is_better { EvalMetric::Loss } else { EvalMetric::Top1 };
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut callback = callback(run, folder.path(), metric, capacity)?;
    let mut history = CheckpointHistory::new(capacity, lower_is_better);
    let mut state = TrainerState::default();
    for row in rows(case)? {
        let (epoch, value) = (row["epoch"].as_u64().ok_or("no epoch")? as u32, row["metric"].as_f64());
        history.insert(epoch, value, value.unwrap_or_default());
        let expected = stems(&row["files"])?;
        let mut ranked: Vec<String> = history.epochs().map(|epoch| format!("checkpoint-{epoch}")).collect();
        ranked.sort();
        let expected_ranked: Vec<String> =
            expected.iter().filter(|stem| stem.starts_with("checkpoint")).cloned().collect();
        equal(&format!("ranked epochs after {epoch}"), &ranked, &expected_ranked)?;
        equal("best epoch", &history.best().map(|best| u64::from(best.0)), &row["best_epoch"].as_u64())?;
        equal("best metric", &history.best().map(|best| best.1), &row["best_metric"].as_f64())?;
        let Some(value) = value else { continue };
        state.history.push(EpochMetrics {
            epoch,
            train_loss: 0.0,
            eval_loss: value,
            eval_top1: value,
            eval_top5: value,
            lr: 0.0,
            ..EpochMetrics::default()
        });
        state.epoch = epoch + 1;
        let best = state.best(metric).map(|row| row.epoch) == Some(epoch);
        save(run, &mut callback, &state, SaveReason::EpochEnd { evaluated: true, best })?;
        equal(&format!("files after epoch {epoch}"), &found(folder.path()), &expected)?;
        for (name, key) in [(CheckpointName::Best, "model_best_epoch"), (CheckpointName::Last, "last_epoch")]
        {
            let saved = read(&name.path(folder.path())).map_err(|e| e.to_string())?.header.state.epoch - 1;
            equal(key, &Some(u64::from(saved)), &row[key].as_u64())?;
        }
    }
    Ok(())
}

/// Recovery checkpoints after the batches of a case.
fn check_recovery(run: &mut Experiment, case: &GoldenCase) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut callback = callback(run, folder.path(), EvalMetric::Top1, 1)?;
    for row in rows(case)? {
        let number = |key: &str| row[key].as_u64().ok_or(format!("no {key}"));
        let (epoch, batch) = (number("epoch")? as u32, number("batch_idx")? as usize + 1);
        let state = TrainerState { epoch, batch, ..TrainerState::default() };
        save(run, &mut callback, &state, SaveReason::Recovery)?;
        equal("recovery files", &found(folder.path()), &stems(&row["files"])?)?;
    }
    Ok(())
}

/// The text of `summary.csv`.
fn check_summary(case: &GoldenCase) -> Result<(), String> {
    let metrics = |row: &Value| {
        let number = |value: &Value| value.as_f64().ok_or("not a number".to_string());
        Ok(EpochMetrics {
            epoch: row["epoch"].as_u64().ok_or("no epoch")? as u32,
            train_loss: number(&row["train"]["loss"])?,
            eval_loss: number(&row["eval"]["loss"])?,
            eval_top1: number(&row["eval"]["top1"])?,
            eval_top5: number(&row["eval"]["top5"])?,
            lr: number(&row["lr"])?,
            ..EpochMetrics::default()
        })
    };
    let history = rows(case)?.iter().map(metrics).collect::<Result<Vec<_>, String>>()?;
    equal("text", &summary_csv(&history).as_str(), &case.json["text"].as_str().ok_or("no text")?)
}

fn callback(
    run: &mut Experiment,
    folder: &Path,
    metric: EvalMetric,
    capacity: usize,
) -> Result<ModelCheckpoint, String> {
    let header = run.checkpoint_header().map_err(|e| e.to_string())?;
    Ok(ModelCheckpoint::new(folder.into(), header, Device::Cpu, metric, capacity))
}

fn save(
    run: &Experiment,
    callback: &mut ModelCheckpoint,
    state: &TrainerState,
    reason: SaveReason,
) -> Result<(), String> {
    let (Some(model), Some(optimizer)) = (run.model.as_deref(), run.optimizer.as_ref()) else {
        return Err("the run is not built".into());
    };
    callback.on_save(&RunSnapshot { model, optimizer, ema: None, state }, reason).map_err(|e| e.to_string())
}

fn rows<'a>(case: &GoldenCase<'a>) -> Result<&'a Vec<Value>, String> {
    case.json["rows"].as_array().ok_or("no rows".into())
}

/// File names without extensions in Fornax's names, sorted.
fn stems(files: &Value) -> Result<Vec<String>, String> {
    let stem = |file: &Value| {
        let stem = file.as_str().and_then(|name| name.strip_suffix(".pth.tar")).ok_or("no file name")?;
        Ok(if stem == "model_best" { "best".to_string() } else { stem.to_string() })
    };
    let mut stems =
        files.as_array().ok_or("no files")?.iter().map(stem).collect::<Result<Vec<_>, String>>()?;
    stems.sort();
    Ok(stems)
}

/// Stems of the checkpoints in a folder, sorted.
fn found(folder: &Path) -> Vec<String> {
    let stem = |name: CheckpointName| {
        name.path(Path::new("")).file_stem().unwrap_or_default().to_string_lossy().into_owned()
    };
    let mut stems: Vec<String> = files::list(folder).into_iter().map(stem).collect();
    stems.sort();
    stems
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?} instead of {expected:?}")) }
}
