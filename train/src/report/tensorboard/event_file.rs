//! Event files in a folder.
use super::summary::{SummaryValue, step_of, summary_event, version_event};
use super::tfrecord::{framed, records};
use crate::run_files::{self, AppendedFile, regular};
use crate::{Error, Result};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Prefix of the names of event files, by which TensorBoard finds them.
const PREFIX: &str = "events.out.tfevents.";

/// Writer of one event file.
#[derive(Debug)]
pub struct EventFile {
    file: AppendedFile,
}

impl EventFile {
    /// Creates an event file in a folder; its name has the time and the process.
    pub fn create(folder: &Path) -> Result<EventFile> {
        let seconds = wall_time();
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
        // A run that is resumed within the same second by a process of the same number gets a new file, too.
        let mut files = (0..).map(|i| {
            let name = format!("{PREFIX}{:010}.{host}.{}.{i}", seconds as u64, std::process::id());
            let path = folder.join(name);
            (regular::create_new(&path), path)
        });
        let created = files.find(|(file, _)| {
            file.as_ref().err().is_none_or(|error| error.kind() != std::io::ErrorKind::AlreadyExists)
        });
        let (file, path) = created.expect("the numbers do not end");
        let head = framed(&version_event(seconds));
        let opened = file.and_then(|_| AppendedFile::open(path.clone(), head));
        let mut file = opened.map_err(|error| cannot_write(&path, &error))?;
        file.flush().map_err(|error| cannot_write(&path, &error))?;
        Ok(EventFile { file })
    }

    /// Appends the values of a step.
    pub fn write(&mut self, step: u64, values: Vec<SummaryValue>) -> Result<()> {
        // One call: a reader never meets a part of a record unless the disk is full, or the process is killed inside of it.
        let event = framed(&summary_event(wall_time(), step, values));
        self.file.append(&event).map_err(|error| cannot_write(self.file.path(), &error))
    }

    /// Forgets events that could not be written yet: those before a return to a checkpoint are cut off.
    pub fn discard_pending(&mut self) {
        self.file.discard_pending();
    }
}

/// True for the name of an event file.
pub fn is_event_file(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with(PREFIX)
}

/// Event files of a folder, oldest first.
pub fn event_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter(|entry| is_event_file(&entry.file_name()));
    let mut paths: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Cuts the event files of a folder after `step`: later events belong to the part of an interrupted run that a resumed run repeats.
pub fn truncate_events(folder: &Path, step: u64) -> Result<()> {
    for path in event_files(folder) {
        let bytes = regular::read(&path).map_err(|error| cannot_write(&path, &error))?;
        let kept = records(&bytes).take_while(|(event, _)| step_of(event) <= step).last();
        let length = kept.map_or(0, |(_, end)| end);
        if length < bytes.len() {
            let file = regular::open_to_write(&path);
            file.and_then(|file| file.set_len(length as u64)).map_err(|error| cannot_write(&path, &error))?;
        }
    }
    Ok(())
}

/// Seconds since 1970.
pub fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    run_files::cannot_write("the event file cannot be written", path, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(folder: &Path) -> Vec<Vec<u64>> {
        let read = |path: PathBuf| {
            let bytes = fs::read(path).expect("reads");
            records(&bytes).map(|(event, _)| step_of(event)).collect()
        };
        event_files(folder).into_iter().map(read).collect()
    }

    #[test]
    fn events_after_the_resumed_step_are_cut() {
        let folder = tempfile::tempdir().expect("a folder");
        for first in [1, 4] {
            let mut file = EventFile::create(folder.path()).expect("creates");
            for step in first..first + 3 {
                file.write(step, vec![SummaryValue::scalar("a", 1.0)]).expect("writes");
            }
        }
        assert_eq!(steps(folder.path()), [[0, 1, 2, 3], [0, 4, 5, 6]]);
        // The last record is cut short, as by a kill.
        let last = event_files(folder.path()).pop().expect("a file");
        let length = fs::metadata(&last).expect("reads").len();
        regular::open_to_write(&last).and_then(|file| file.set_len(length - 1)).expect("cuts");
        truncate_events(folder.path(), 9).expect("cuts");
        assert_eq!(steps(folder.path()), [vec![0, 1, 2, 3], vec![0, 4, 5]]);
        truncate_events(folder.path(), 2).expect("cuts");
        assert_eq!(steps(folder.path()), [vec![0, 1, 2], vec![0]]);
    }
}
