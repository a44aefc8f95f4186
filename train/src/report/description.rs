//! `args.yaml` and `env.json` of a run: its settings, and the machine, time and command of each start.
use super::Machine;
use super::clock::date_time;
use crate::checkpoint::{durable, with_absolute_paths};
use crate::experiment::OptionChange;
use crate::run_files::{number_of_settings, regular};
use crate::settings::Settings;
use crate::{Error, Result};
use serde_json::Value;
use std::fs;
use std::path::Path;

const ARGS: &str = "args.yaml";
const ENV: &str = "env.json";
/// Entries of a start in `env.json` that are options of `fornax train`.
const OPTIONS: [(&str, &str); 2] = [("threads", "--threads"), ("log_interval", "--log-interval")];

/// Start of a process of a run.
pub struct RunStart<'a> {
    /// The settings of the run.
    pub settings: &'a Settings,
    /// The machine.
    pub machine: &'a Machine,
    /// Number of ranks.
    pub ranks: usize,
    /// Updates between log lines.
    pub log_interval: u64,
}

/// Name and text of a file that describes the run.
pub type DescriptionFile = (&'static str, String);

/// Texts of both files, and the options in `env.json` that differ from the previous start's. An earlier `args.yaml` of other settings
/// becomes `args.1.yaml`, `args.2.yaml` and so on.
pub fn describe(folder: &Path, start: &RunStart) -> Result<(Vec<DescriptionFile>, Vec<OptionChange>)> {
    let title = "# The settings of this run; `fornax train -c` with this file trains it again.\n";
    let yaml = format!("{title}{}", with_absolute_paths(start.settings).to_yaml());
    let mut entry = serde_json::to_value(start.machine).expect("plain values have a JSON form");
    entry["ranks"] = start.ranks.into();
    entry["log_interval"] = start.log_interval.into();
    entry["started"] = date_time().into();
    let command = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    entry["command"] = command.collect::<Vec<_>>().into();
    let path = folder.join(ENV);
    let earlier = regular::read(&path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let (env, changes) = match earlier.filter(Value::is_object) {
        Some(mut first) => {
            let mut resumed = first["resumed"].as_array().cloned().unwrap_or_default();
            let changes = differences(resumed.last().unwrap_or(&first), &entry);
            resumed.push(entry);
            first["resumed"] = resumed.into();
            (first, changes)
        }
        None => (entry, vec![]),
    };
    keep_earlier(folder, &yaml)?;
    Ok((vec![(ARGS, yaml), (ENV, format!("{env:#}\n"))], changes))
}

/// Writes the files of [`describe`].
pub fn write(folder: &Path, files: &[DescriptionFile]) -> Result<()> {
    files.iter().try_for_each(|(name, text)| durable::write(&folder.join(name), text.as_bytes()))
}

fn differences(then: &Value, now: &Value) -> Vec<OptionChange> {
    let change = |(key, option): (&str, &str)| {
        let (from, to) = (then.get(key)?.as_u64()?, now.get(key)?.as_u64()?);
        OptionChange::accepted(option, from, to)
    };
    OPTIONS.into_iter().filter_map(change).collect()
}

/// Copies `args.yaml` to a numbered file if its text is another one and is not kept yet.
fn keep_earlier(folder: &Path, yaml: &str) -> Result<()> {
    let Ok(earlier) = regular::read_to_string(&folder.join(ARGS)) else { return Ok(()) };
    let entries = fs::read_dir(folder)
        .map_err(|e| Error::disk("the run's folder cannot be read").at_path(folder).because(e))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let last = names.filter_map(|name| number_of_settings(&name)).max().unwrap_or(0);
    let file = |number: u32| folder.join(format!("args.{number}.yaml"));
    // A process that was killed here has kept them already.
    let is_kept = || regular::read_to_string(&file(last)).is_ok_and(|kept| kept == earlier);
    match earlier == yaml || is_kept() {
        true => Ok(()),
        false => durable::write(&file(last + 1), earlier.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_settings_are_kept_under_a_number_if_they_differ() {
        let folder = tempfile::tempdir().expect("a folder");
        let machine = Machine::detect();
        let start = |epochs: u32, log_interval: u64| {
            let settings = Settings { epochs: Some(epochs), ..Settings::default() };
            let start = RunStart { settings: &settings, machine: &machine, ranks: 1, log_interval };
            let (files, changes) = describe(folder.path(), &start).expect("describes");
            write(folder.path(), &files).expect("writes");
            changes
        };
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        assert_eq!(start(3, 50), []);
        assert_eq!(start(3, 50), []);
        assert!(!folder.path().join("args.1.yaml").exists());
        let changed = start(4, 10);
        assert_eq!((changed.len(), changed[0].option.as_str()), (1, "--log-interval"));
        assert_eq!((changed[0].from.as_str(), changed[0].to.as_str()), ("50", "10"));
        start(5, 10);
        assert!(read("args.1.yaml").contains("epochs: 3") && read("args.2.yaml").contains("epochs: 4"));
        assert!(read("args.yaml").contains("epochs: 5"));
        let env: Value = serde_json::from_str(&read("env.json")).expect("JSON");
        assert_eq!(env["resumed"].as_array().map(Vec::len), Some(3));
    }
}
