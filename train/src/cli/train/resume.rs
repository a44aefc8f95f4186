//! Output folder of a run, and the checkpoint of a resumed run.
use super::TrainArgs;
use crate::checkpoint::{self, Checkpoint, NewestCheckpoint};
use crate::cli::yaml;
use crate::config::IgnoredOption;
use crate::experiment::RunCheckpoint;
use crate::report::{Destination, RunFolder};
use crate::settings::Settings;
use crate::{Error, Result};
use std::path::{Component, Path, PathBuf};

/// The run's folder, and the checkpoint to resume from.
pub fn destination(args: &TrainArgs) -> Result<(Destination, Option<RunCheckpoint>)> {
    let named = args.experiment.as_ref().map(|name| experiment_folder(&output(args), name)).transpose()?;
    let Some(resume) = &args.resume else {
        let destination = match (named, args.overwrite) {
            (Some(path), true) => Destination::Overwrite(path),
            (Some(path), false) => Destination::New(path),
            (None, _) => Destination::Dated(output(args)),
        };
        return Ok((destination, None));
    };
    if args.overwrite {
        return Err(no_effect("--overwrite", "--resume continues the run in that folder"));
    }
    if resume.as_os_str() == "auto" {
        let folder = named.ok_or_else(needs_experiment)?;
        return Ok(match newest_checkpoint(&folder)? {
            Some(checkpoint) => (Destination::Resume(folder), Some(checkpoint)),
            // A run that ended before its first checkpoint starts again.
            None if RunFolder::has_only_run_files(&folder) => (Destination::Overwrite(folder), None),
            None => (Destination::New(folder), None),
        });
    }
    if named.is_some() {
        return Err(no_effect("--experiment", "--resume continues a run in its own folder"));
    }
    if resume.is_dir() {
        let found = newest_checkpoint(resume)?.ok_or_else(|| {
            Error::checkpoint("the folder has no checkpoint")
                .at_path(resume)
                .because("a run has its checkpoints in checkpoints/")
                .remedy("pass a run's folder, or a file in its checkpoints/ folder")
        })?;
        return Ok((Destination::Resume(resume.clone()), Some(found)));
    }
    let path = resume.clone();
    let checkpoint = checkpoint::read(&path)?;
    let absolute = std::fs::canonicalize(&path).unwrap_or(path);
    match absolute.parent().filter(|folder| folder.ends_with("checkpoints")).and_then(Path::parent) {
        Some(folder) => {
            Ok((Destination::Resume(folder.into()), Some(RunCheckpoint { checkpoint, notes: vec![] })))
        }
        None => Err(Error::checkpoint("the checkpoint is not in a run's folder")
            .at_path(&absolute)
            .because("a run is resumed in its own folder, which has its checkpoints in checkpoints/")
            .remedy("pass a run's folder, or a file in its checkpoints/ folder")),
    }
}

/// Merges the settings of the checkpoint, of every configuration file and of the command line; later ones win.
/// A run that is resumed by another number of ranks keeps the size of its batches over all ranks, unless `--batch-size` is given.
pub fn merged_settings(
    args: &TrainArgs,
    checkpoint: Option<&RunCheckpoint>,
    world_size: usize,
) -> Result<Settings> {
    let Some(header) = checkpoint.map(|resumed| &resumed.checkpoint.header) else {
        return args.recipe.settings();
    };
    let mut of_checkpoint = header.settings.clone();
    if let Some(batch_size) = of_checkpoint.batch_size.filter(|_| header.world_size != world_size)
        && (batch_size as usize * header.world_size).is_multiple_of(world_size)
    {
        of_checkpoint.batch_size = Some(batch_size_of_a_rank(batch_size, header.world_size, world_size));
    }
    if world_size == 1 {
        of_checkpoint = without_ranks(of_checkpoint);
    }
    args.recipe.settings_over(of_checkpoint)
}

/// Batch size of each of `ranks` ranks, which continue a run of `before` ranks with `batch_size` images each.
pub fn batch_size_of_a_rank(batch_size: u32, before: usize, ranks: usize) -> u32 {
    let global = u64::from(batch_size) * before as u64;
    u32::try_from(global / ranks as u64).unwrap_or(u32::MAX)
}

/// Settings without those of several ranks.
pub fn without_ranks(settings: Settings) -> Settings {
    Settings { sync_bn: None, dist_bn: None, ddp_compress: None, ..settings }
}

/// The newest usable checkpoint of the run in a folder, whose settings are in `args.yaml`; `None` if it has no checkpoints.
fn newest_checkpoint(folder: &Path) -> Result<Option<RunCheckpoint>> {
    RunFolder::check_files(folder)?;
    let settings = yaml::read(&folder.join("args.yaml")).ok();
    let accept = |checkpoint: &Checkpoint| {
        let Some(settings) = &settings else { return Ok(()) };
        let (run, own) = (settings.settings.given(), checkpoint.header.settings.given());
        match ["model", "dataset", "seed"].into_iter().find(|key| run.get(*key) != own.get(*key)) {
            None => Ok(()),
            Some(key) => Err(Error::checkpoint("the checkpoint is of another run")
                .because(format!("it is of another run: its {key} differs from that in args.yaml"))),
        }
    };
    let found = checkpoint::newest_accepted(&folder.join("checkpoints"), &accept)?;
    Ok(found.map(|NewestCheckpoint { checkpoint, path, passed_over }| {
        let from = path.file_name().unwrap_or_default().to_string_lossy();
        let mut notes: Vec<String> =
            passed_over.iter().map(|why| format!("warning: a checkpoint is passed over: {why}")).collect();
        if !notes.is_empty() {
            notes.push(format!("resuming from {from}"));
        }
        RunCheckpoint { checkpoint, notes }
    }))
}

/// The folder in which runs have their folders.
pub fn output(args: &TrainArgs) -> PathBuf {
    args.output.clone().unwrap_or_else(|| "output/train".into())
}

/// Error of `--resume auto` without a name.
pub fn needs_experiment() -> Error {
    Error::usage("--resume auto needs --experiment")
        .because("it resumes the run of that name, if it exists")
        .remedy("name the run with --experiment")
}

/// Options of the output folder that have no effect together with the others.
pub fn ignored_options(args: &TrainArgs) -> Vec<IgnoredOption> {
    let resumes_folder = args.resume.as_ref().is_some_and(|path| path.as_os_str() != "auto");
    let has_new_optimizer = args.resume.is_none() && args.recipe.settings.no_resume_opt == Some(true);
    let all = [
        (
            "overwrite",
            args.overwrite && args.experiment.is_none() && args.resume.is_none(),
            "without --experiment every run gets a new folder",
        ),
        ("output", args.output.is_some() && resumes_folder, "--resume continues a run in its own folder"),
        ("no_resume_opt", has_new_optimizer, "without --resume a run starts with a new optimizer"),
    ];
    let given = all.into_iter().filter(|(_, is_given, _)| *is_given);
    given.map(|(name, _, why)| IgnoredOption::new(name, why)).collect()
}

/// The folder of a named run.
pub fn experiment_folder(output: &Path, name: &str) -> Result<PathBuf> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(_)), None) => Ok(output.join(name)),
        _ => Err(Error::usage(format!("{name:?} is not a folder name"))
            .at("--experiment")
            .remedy("pass a name without slashes, and its parent folder with --output")),
    }
}

fn no_effect(flag: &str, why: &str) -> Error {
    Error::usage(format!("{flag} would have no effect")).because(why).remedy(format!("omit {flag}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn global_batch_sizes_beyond_32_bits_are_divided_among_the_ranks() {
        assert_eq!(batch_size_of_a_rank(1 << 20, 4096, 4096), 1 << 20);
        assert_eq!(batch_size_of_a_rank(64, 4, 2), 128);
        assert_eq!(batch_size_of_a_rank(1 << 20, 1 << 13, 1), u32::MAX);
    }
}
