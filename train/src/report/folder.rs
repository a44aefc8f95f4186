//! Folder of a run: `args.yaml env.json summary.csv metrics.jsonl log.txt report.html plots/ samples/ checkpoints/`.
use super::clock::{date_time, timestamp};
use super::description::{self, RunStart};
use super::folder_keeper::FolderKeeper;
use super::{Machine, UpdateMetrics, metrics_file, progress::event};
use crate::callbacks::{
    Callback, EpochBegin, EpochEnd, Rollback, RunSnapshot, SaveReason, TrainBegin, TrainEnd,
};
use crate::checkpoint::{LOCK_FILE, RunLock};
use crate::experiment::OptionChange;
use crate::run_files::{self, AppendedFile, FOLDERS};
use crate::settings::Settings;
use crate::trainer::{Evaluation, TrainerState};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Location of a run's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A new folder `YYYYMMDD-HHMMSS-<model>-<size>` within this one.
    Dated(PathBuf),
    /// This folder, which must be new or empty.
    New(PathBuf),
    /// This folder; an earlier run in it is replaced.
    Overwrite(PathBuf),
    /// This folder; its run is resumed.
    Resume(PathBuf),
}

/// Files of a run.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    log: AppendedFile,
    metrics: AppendedFile,
    log_interval: u64,
    host: String,
    ranks: usize,
    started: Instant,
    epoch_started: Instant,
    /// The folder with its lock, until [`RunFolder::take_keeper`].
    keeper: Option<FolderKeeper>,
}

impl Destination {
    /// Checks that the folder can be used; creates nothing.
    pub fn check(&self) -> Result<()> {
        match self {
            Destination::New(path) if !is_missing_or_empty(path) => Err(Error::usage(
                "the output folder is not empty",
            )
            .at_path(path)
            .remedy(
                "choose another --experiment, resume its run with --resume, or replace it with --overwrite",
            )),
            Destination::New(path) | Destination::Overwrite(path) if path.exists() && !path.is_dir() => {
                Err(Error::usage("the output folder is a file")
                    .at_path(path)
                    .remedy("choose another --experiment"))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the folder can be written, by creating and removing a folder in the nearest existing one above it, and that no other
    /// process trains in it.
    pub fn check_writable(&self) -> Result<()> {
        let path = self.path();
        if path.join(LOCK_FILE).exists() {
            RunLock::acquire(path)?;
        }
        let is_there =
            |folder: &&Path| folder.as_os_str().is_empty() || folder.exists() || folder.is_symlink();
        let existing = path.ancestors().find(is_there);
        let trial = existing.unwrap_or(Path::new("")).join(format!(".fornax-{}", std::process::id()));
        fs::create_dir(&trial).and_then(|()| fs::remove_dir(&trial)).map_err(|e| cannot_write(path, &e))
    }

    /// The run's folder, or the one in which a dated folder is made.
    pub fn path(&self) -> &Path {
        let (Destination::Dated(path)
        | Destination::New(path)
        | Destination::Overwrite(path)
        | Destination::Resume(path)) = self;
        path
    }

    /// Path of the folder, with placeholders for parts that are known when it is created.
    pub fn describe(&self) -> String {
        match self {
            Destination::Dated(path) => path.join("<date>-<time>-<model>-<size>").display().to_string(),
            Destination::New(path) | Destination::Overwrite(path) | Destination::Resume(path) => {
                path.display().to_string()
            }
        }
    }
}

impl RunFolder {
    /// Creates or reopens the folder for a run in state `state`; events that an interrupted run logged after that state are removed from
    /// `metrics.jsonl`. On failure a new folder is removed again.
    pub fn open(
        destination: &Destination,
        name: &str,
        log_interval: u64,
        state: &TrainerState,
    ) -> Result<RunFolder> {
        destination.check()?;
        let (path, created) = match destination {
            Destination::Dated(parent) => create_dated(parent, name)?,
            Destination::New(path) | Destination::Overwrite(path) | Destination::Resume(path) => {
                (path.clone(), create_folder(path)?)
            }
        };
        let opened = (|| {
            let lock = RunLock::acquire(&path)?;
            if let Destination::Overwrite(_) = destination {
                clear(&path)?;
            }
            run_files::check(&path)?;
            run_files::remove_leftovers(&path);
            FOLDERS.iter().try_for_each(|name| create_folder(&path.join(name)).map(|_| ()))?;
            let path = fs::canonicalize(&path).map_err(|e| cannot_write(&path, &e))?;
            metrics_file::truncate(&path.join("metrics.jsonl"), state)?;
            let (log, metrics) = (append_to(&path.join("log.txt"))?, append_to(&path.join("metrics.jsonl"))?);
            let (host, now) = (String::new(), Instant::now());
            Ok(RunFolder {
                log,
                metrics,
                log_interval,
                host,
                ranks: 1,
                started: now,
                epoch_started: now,
                keeper: Some(FolderKeeper::new(path.clone(), lock)),
                path,
            })
        })();
        if opened.is_err() && created {
            // Best effort: the first error is the one to report.
            fs::remove_dir_all(&path).ok();
        }
        opened
    }

    /// True if a folder exists and has no files but a run's.
    pub fn has_only_run_files(folder: &Path) -> bool {
        run_files::has_only_run_files(folder)
    }

    /// Checks that the files of a run's folder are regular files inside of it, if it exists.
    pub fn check_files(folder: &Path) -> Result<()> {
        run_files::check(folder)
    }

    /// Takes the callback that keeps the folder, and its lock. It belongs before the others.
    pub fn take_keeper(&mut self) -> Option<FolderKeeper> {
        self.keeper.take()
    }

    /// Absolute path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `args.yaml`, which `--config` reads back, and `env.json`: machine, time and command of the first start, and a list of the
    /// later ones. Earlier settings are kept under a number. Returns the options in `env.json` that differ from the previous start's.
    pub fn describe_run(
        &mut self,
        settings: &Settings,
        machine: &Machine,
        ranks: usize,
    ) -> Result<Vec<OptionChange>> {
        (self.host, self.ranks) = (machine.host.clone(), ranks);
        let log_interval = self.log_interval;
        let start = RunStart { settings, machine, ranks, log_interval };
        let (files, changes) = description::describe(&self.path, &start)?;
        description::write(&self.path, &files)?;
        if let Some(keeper) = &mut self.keeper {
            keeper.describe(files);
        }
        Ok(changes)
    }

    /// Writes an event with the options of a resumed run that differ from its checkpoint's, if there are any.
    pub fn record_changes(&mut self, changes: &[OptionChange], state: &TrainerState) -> Result<()> {
        match changes {
            [] => Ok(()),
            changes => self.write_event(&metrics_file::options_event(changes, state)),
        }
    }

    fn append(&mut self, line: &str, event: &Value) -> Result<()> {
        // Both are attempted: what is not written is kept in memory.
        let logged = self.log(line);
        self.write_event(event).and(logged)
    }

    fn log(&mut self, line: &str) -> Result<()> {
        self.log.append(format!("{line}\n").as_bytes()).map_err(|e| cannot_write(self.log.path(), &e))
    }

    fn write_event(&mut self, event: &Value) -> Result<()> {
        self.metrics
            .append(format!("{event}\n").as_bytes())
            .map_err(|e| cannot_write(self.metrics.path(), &e))
    }
}

impl Callback for RunFolder {
    fn on_train_begin(&mut self, event: &TrainBegin) -> Result<()> {
        self.started = Instant::now();
        let (time, ranks, state) = (date_time(), self.ranks, event.state);
        let of_ranks = if ranks > 1 { format!(", {ranks} ranks") } else { String::new() };
        let verb = if state.update > 0 { "resumed" } else { "started" };
        let line = format!("{verb} {time} UTC on {}{of_ranks}", self.host);
        let start = json!({
            "event": "start", "time": time, "host": self.host, "ranks": ranks, "epoch": state.epoch, "update": state.update,
        });
        self.append(&line, &start)
    }

    fn on_epoch_begin(&mut self, _: &EpochBegin) -> Result<()> {
        self.epoch_started = Instant::now();
        Ok(())
    }

    fn on_batch_end(&mut self, metrics: &UpdateMetrics) -> Result<()> {
        let mut logged = Ok(());
        if metrics.update.is_multiple_of(self.log_interval) {
            logged = self.log(&metrics.line());
        }
        match metrics.is_point(self.log_interval) {
            true => self.write_event(&event("update", metrics)).and(logged),
            false => logged,
        }
    }

    fn on_epoch_end(&mut self, end: &EpochEnd) -> Result<()> {
        let Some(metrics) = end.metrics else { return Ok(()) };
        let seconds = self.epoch_started.elapsed().as_secs_f64();
        let mut event = event("epoch", metrics);
        event["seconds"] = rounded(seconds);
        self.append(&format!("{}  {seconds:.1} s", metrics.line(end.best)), &event)
    }

    fn on_train_end(&mut self, end: &TrainEnd) -> Result<()> {
        let seconds = self.started.elapsed().as_secs_f64();
        let reason = match (end.error, end.stop_reason) {
            (Some(error), _) => {
                error.to_string().replace("\n", ";").split_whitespace().collect::<Vec<_>>().join(" ")
            }
            (None, Some(why)) => format!("stopped: {why}"),
            (None, None) => "all epochs are trained".into(),
        };
        let result = end.evaluation.map(|Evaluation { loss, top1, top5, .. }| {
            format!("top-1 {top1:.2}%  top-5 {top5:.2}%  loss {loss:.4}\n")
        });
        let time = date_time();
        let line = format!("{}ended {time} UTC after {seconds:.1} s: {reason}", result.unwrap_or_default());
        let (epoch, update) = (end.state.epoch, end.state.update);
        let event = json!({
            "event": "end", "time": time, "seconds": rounded(seconds), "epoch": epoch, "update": update, "reason": reason,
        });
        self.append(&line, &event)
    }

    fn on_rollback(&mut self, event: &Rollback) -> Result<()> {
        self.write_event(&metrics_file::rollback_event(event))
    }

    fn on_message(&mut self, text: &str) -> Result<()> {
        self.log(text)
    }

    /// Writes the lines that a full disk has rejected: a new checkpoint has replaced earlier ones, so there may be space. A failure was reported
    /// when the line was added.
    fn on_save(&mut self, _: &RunSnapshot, _: SaveReason) -> Result<()> {
        self.log.flush().and(self.metrics.flush()).ok();
        Ok(())
    }
}

/// Seconds with three digits after the point.
fn rounded(seconds: f64) -> Value {
    ((1000.0 * seconds).round() / 1000.0).into()
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    let error = run_files::cannot_write("the output folder cannot be written", path, error);
    let help = error.help().unwrap_or("make the folder writable").to_string();
    error.remedy(format!("{help}, or choose another one with --output"))
}

fn is_missing_or_empty(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().all(|entry| entry.file_name() == LOCK_FILE),
        Err(error) => error.kind() == ErrorKind::NotFound || !path.is_dir(),
    }
}

/// Creates a folder and its parents; true if it did not exist.
fn create_folder(path: &Path) -> Result<bool> {
    let new = !path.exists();
    fs::create_dir_all(path).map_err(|e| cannot_write(path, &e))?;
    Ok(new)
}

fn create_dated(parent: &Path, name: &str) -> Result<(PathBuf, bool)> {
    create_folder(parent)?;
    let base = format!("{}-{name}", timestamp());
    let names = std::iter::once(base.clone()).chain((2..100).map(|i| format!("{base}-{i}")));
    for name in names {
        let path = parent.join(name);
        match fs::create_dir(&path) {
            Ok(()) => return Ok((path, true)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(cannot_write(&path, &e)),
        }
    }
    Err(Error::disk("a hundred runs started within this second")
        .at_path(parent)
        .remedy("name the run with --experiment"))
}

/// Removes the files of a run from its folder, and nothing else. Of a link only the link is removed.
fn clear(path: &Path) -> Result<()> {
    let removed_files = run_files::files(path).into_iter().map(|file| (fs::remove_file(&file), file));
    let folders = FOLDERS.iter().map(|name| path.join(name));
    for (removed, entry) in removed_files.chain(folders.map(|folder| (fs::remove_dir_all(&folder), folder))) {
        match removed {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(cannot_write(&entry, &e)),
            _ => {}
        }
    }
    Ok(())
}

fn append_to(path: &Path) -> Result<AppendedFile> {
    AppendedFile::open(path.into(), vec![]).map_err(|e| cannot_write(path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).expect("lists");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn used_folder_is_rejected_unless_overwrite() {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("run");
        let open = |destination| RunFolder::open(&destination, "m", 1, &TrainerState::default());
        open(Destination::New(path.clone())).expect("new");
        fs::write(path.join("mine.txt"), "mine").expect("writes");
        fs::write(path.join("checkpoints/last.safetensors"), "old").expect("writes");
        fs::write(path.join("events.out.tfevents.1.host.2.0"), "old").expect("writes");
        let error = open(Destination::New(path.clone())).expect_err("used");
        assert_eq!(error.kind(), crate::error::ErrorKind::Usage);
        open(Destination::Overwrite(path.clone())).expect("overwrites");
        assert_eq!(
            entries(&path),
            [".lock", "checkpoints", "log.txt", "metrics.jsonl", "mine.txt", "plots", "samples"]
        );
        assert!(entries(&path.join("checkpoints")).is_empty());
    }

    #[test]
    fn temporary_files_of_a_killed_run_are_removed() {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("run");
        let open = |destination| RunFolder::open(&destination, "m", 1, &TrainerState::default());
        open(Destination::New(path.clone())).expect("new");
        let own = path.join(".args.yaml.7.tmp");
        fs::write(&own, "half").expect("writes");
        assert!(RunFolder::has_only_run_files(&path), "the run was killed while it wrote its first file");
        let other = path.join(".mine.7.tmp");
        fs::write(&other, "mine").expect("writes");
        assert!(!RunFolder::has_only_run_files(&path));
        fs::write(path.join("checkpoints/.last.safetensors.7.tmp"), "half").expect("writes");
        open(Destination::Resume(path.clone())).expect("resumes");
        assert!(!own.exists() && other.exists() && entries(&path.join("checkpoints")).is_empty());
    }

    #[test]
    fn dated_folders_of_the_same_second_differ() {
        let root = tempfile::tempdir().expect("a folder");
        let destination = Destination::Dated(root.path().into());
        for _ in 0..3 {
            RunFolder::open(&destination, "m-8", 1, &TrainerState::default()).expect("new");
        }
        assert_eq!(entries(root.path()).len(), 3);
    }
}
