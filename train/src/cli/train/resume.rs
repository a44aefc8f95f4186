//! Output folder of a run, and the checkpoint of a resumed run.
use super::TrainArgs;
use crate::checkpoint::{self, Checkpoint, CheckpointHeader};
use crate::cli::yaml;
use crate::config::Config;
use crate::data::Dataset;
use crate::report::Destination;
use crate::settings::Settings;
use crate::{Error, Result};
use std::path::{Component, Path, PathBuf};

/// The run's folder, and the checkpoint to resume from.
pub fn destination(args: &TrainArgs) -> Result<(Destination, Option<Checkpoint>)> {
    let output = || args.output.clone().unwrap_or_else(|| "output/train".into());
    let named = args.experiment.as_ref().map(|name| experiment_folder(&output(), name)).transpose()?;
    let Some(resume) = &args.resume else {
        let destination = match (named, args.overwrite) {
            (Some(path), true) => Destination::Overwrite(path),
            (Some(path), false) => Destination::New(path),
            (None, false) => Destination::Dated(output()),
            (None, true) => {
                return Err(no_effect("--overwrite", "without --experiment every run gets a new folder"));
            }
        };
        return Ok((destination, None));
    };
    if args.overwrite {
        return Err(no_effect("--overwrite", "--resume continues the run in that folder"));
    }
    if resume.as_os_str() == "auto" {
        let why = "it resumes the run of that name, if it exists";
        let folder = named.ok_or_else(|| {
            Error::usage("--resume auto needs --experiment")
                .because(why)
                .remedy("name the run with --experiment")
        })?;
        let last = last_checkpoint(&folder);
        return match last.exists() {
            true => Ok((Destination::Resume(folder), Some(checkpoint::read(&last)?))),
            false => Ok((Destination::New(folder), None)),
        };
    }
    if let Some(flag) =
        [("--output", args.output.is_some()), ("--experiment", named.is_some())].iter().find(|f| f.1)
    {
        return Err(no_effect(flag.0, "--resume continues a run in its own folder"));
    }
    let path = if resume.is_dir() { last_checkpoint(resume) } else { resume.clone() };
    let checkpoint = checkpoint::read(&path)?;
    let absolute = std::fs::canonicalize(&path).unwrap_or(path);
    match absolute.parent().filter(|folder| folder.ends_with("checkpoints")).and_then(Path::parent) {
        Some(folder) => Ok((Destination::Resume(folder.into()), Some(checkpoint))),
        None => Err(Error::checkpoint("the checkpoint is not in a run's folder")
            .at_path(&absolute)
            .because("a run is resumed in its own folder, which has its checkpoints in checkpoints/")
            .remedy("give a run's folder, or a file in its checkpoints/ folder")),
    }
}

/// Merges the settings of the checkpoint, of every configuration file and of the command line; later ones win.
pub fn merged_settings(args: &TrainArgs, checkpoint: Option<&Checkpoint>) -> Result<Settings> {
    let mut settings = checkpoint.map_or_else(Settings::default, |c| c.header.settings.clone());
    for path in &args.config {
        settings = yaml::read(path)?.over(settings);
    }
    Ok(args.settings.clone().over(settings))
}

/// Checks that a resumed run has the checkpoint's dataset, model, batch size, optimizer and seed.
pub fn check_same_run(config: &Config, data: &Dataset, header: &CheckpointHeader) -> Result<()> {
    let (now, then) = (&config.settings.given(), &header.settings.given());
    let fixed = ["dataset", "model", "batch_size", "opt", "seed"];
    if let Some(key) = fixed.into_iter().find(|key| now.get(*key) != then.get(*key)) {
        let flag = format!("--{}", key.replace('_', "-"));
        let text = |value: Option<&serde_json::Value>| value.map_or("unset".into(), |v| v.to_string());
        return Err(Error::usage(format!("{flag} cannot change within a run"))
            .because(format!(
                "the checkpoint was made with {}, now it is {}",
                text(then.get(key)),
                text(now.get(key))
            ))
            .remedy(format!("leave {flag} out, or start a new run without --resume")));
    }
    if data.crc32c() != header.data_crc32c || data.classes != header.classes {
        let why = "its images or labels differ from those that the checkpoint was made with";
        return Err(Error::data("the dataset has changed")
            .because(why)
            .remedy("restore it, or start a new run"));
    }
    Ok(())
}

fn last_checkpoint(folder: &Path) -> PathBuf {
    folder.join("checkpoints").join("last.safetensors")
}

fn experiment_folder(output: &Path, name: &str) -> Result<PathBuf> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(_)), None) => Ok(output.join(name)),
        _ => Err(Error::usage(format!("{name:?} is not a folder name"))
            .at("--experiment")
            .remedy("give a name without slashes, and its parent folder with --output")),
    }
}

fn no_effect(flag: &str, why: &str) -> Error {
    Error::usage(format!("{flag} would have no effect")).because(why).remedy(format!("leave {flag} out"))
}
