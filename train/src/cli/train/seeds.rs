//! Several runs that differ in their seed: `--seeds`.
use super::resume;
use super::{FinishedRun, TrainArgs, outcome, train};
use crate::checkpoint::durable;
use crate::cli::print;
use crate::config::Config;
use crate::message::count;
use crate::report::{ProgressMode, timestamp};
use crate::settings::{EvalMetric, Seeds, Settings};
use crate::{Error, Result};
use clap::ValueEnum;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Name of the results' file in the folder of the runs.
const RESULTS: &str = "seeds.json";

/// Trains one run per seed in `seed-N` folders, and prints and writes mean and standard deviation of the best metrics.
pub fn execute(args: &TrainArgs, seeds: &Seeds) -> Result<()> {
    let settings = args.recipe.settings()?;
    check(args, &settings)?;
    let folder = folder(args, &settings, seeds.list()[0])?;
    let runs: Vec<(u64, TrainArgs)> =
        seeds.list().iter().map(|seed| (*seed, of_seed(args, &folder, *seed))).collect();
    for (_, run) in &runs {
        // A used folder is rejected before hours of training.
        resume::destination(run)?.0.check()?;
    }
    let (mut signals, mut finished) = (None, vec![]);
    for (number, (seed, run)) in runs.iter().enumerate() {
        match args.progress {
            ProgressMode::None => {}
            ProgressMode::Json => {
                message!(
                    "{}",
                    json!({ "event": "seed", "seed": seed, "number": number + 1, "of": runs.len() })
                );
            }
            _ => message!("seed {seed}: run {} of {}", number + 1, runs.len()),
        }
        let Some(result) = train(run, None, args.open_device()?, &mut signals)? else { continue };
        if !args.json {
            print(&format!("seed {seed}\n{}", outcome::text(&result)))?;
        }
        finished.push((*seed, result));
    }
    if finished.is_empty() {
        return Ok(());
    }
    let summary = SeedSummary::new(&finished);
    // As the folders of the runs: they exist now.
    let folder = std::fs::canonicalize(&folder).unwrap_or(folder);
    let results = summary.json(&finished, &folder);
    durable::write(&folder.join(RESULTS), format!("{results:#}\n").as_bytes())?;
    print(&if args.json { format!("{results}\n") } else { summary.text(&folder) })
}

/// Refuses options that belong to one run.
fn check(args: &TrainArgs, settings: &Settings) -> Result<()> {
    if settings.seed.is_some() {
        return Err(Error::usage("--seed would have no effect")
            .because("--seeds is given")
            .remedy("use one of the two"));
    }
    if let Some(path) = args.resume.as_ref().filter(|path| path.as_os_str() != "auto") {
        return Err(Error::usage("--resume PATH does not work with --seeds")
            .at_path(path)
            .because("it is one run, and --seeds are several")
            .remedy("use --resume auto, which continues at the seed that was interrupted"));
    }
    if args.fast_dev_run.is_some() {
        return Err(Error::usage("--fast-dev-run does not work with --seeds")
            .because("a trial run has no folder, and one shows whether the settings work")
            .remedy("omit --seeds"));
    }
    Ok(())
}

/// The folder of the runs.
fn folder(args: &TrainArgs, settings: &Settings, first: u64) -> Result<PathBuf> {
    let output = resume::output(args);
    match (&args.experiment, &args.resume) {
        (Some(name), _) => resume::experiment_folder(&output, name),
        (None, Some(_)) => Err(resume::needs_experiment()),
        (None, None) => {
            let settings = Settings { seed: Some(first), seeds: None, ..settings.clone() };
            Ok(output.join(format!("{}-{}", timestamp(), Config::resolve(&settings)?.model.name)))
        }
    }
}

/// The arguments of one run.
fn of_seed(args: &TrainArgs, folder: &Path, seed: u64) -> TrainArgs {
    let mut run = args.clone();
    run.recipe.ignored.extend(resume::ignored_options(args));
    run.overwrite &= args.experiment.is_some();
    (run.output, run.experiment) = (Some(folder.into()), Some(format!("seed-{seed}")));
    (run.recipe.settings.seed, run.recipe.settings.seeds) = (Some(seed), None);
    run.is_one_of_several = true;
    run
}

/// Best metrics of the runs.
struct SeedSummary {
    metric: EvalMetric,
    values: Vec<f64>,
    mean: f64,
    /// Sample standard deviation; `None` for one run.
    std: Option<f64>,
}

impl SeedSummary {
    fn new(runs: &[(u64, FinishedRun)]) -> SeedSummary {
        let metric = runs[0].1.metric;
        let values: Vec<f64> =
            runs.iter().filter_map(|(_, run)| run.best.as_ref().map(|best| metric.value(best))).collect();
        let (mean, std) = mean_and_std(&values);
        SeedSummary { metric, values, mean, std }
    }

    fn json(&self, runs: &[(u64, FinishedRun)], folder: &Path) -> Value {
        let objects: Vec<Value> = runs
            .iter()
            .map(|(seed, run)| {
                let mut object = outcome::json(run);
                object["seed"] = (*seed).into();
                object
            })
            .collect();
        json!({
            "seeds": runs.iter().map(|(seed, _)| seed).collect::<Vec<_>>(),
            "metric": self.metric,
            "best": self.values,
            "mean": self.mean,
            "std": self.std,
            "runs": objects,
            "output": folder.display().to_string(),
        })
    }

    fn text(&self, folder: &Path) -> String {
        let mean = self.mean;
        let metric = self.metric.to_possible_value().expect("every metric has a name");
        let name = metric.get_name();
        let std = self.std.map_or(String::new(), |std| format!(", standard deviation {std:.4}"));
        let runs = count(self.values.len() as u64, "seed");
        format!("best {name} of {runs}: mean {mean:.4}{std}\n{}\n", folder.display())
    }
}

/// Mean and sample standard deviation.
fn mean_and_std(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::mean_and_std;

    #[test]
    fn standard_deviation_is_that_of_a_sample() {
        assert_eq!(mean_and_std(&[1.0, 2.0, 3.0]), (2.0, Some(1.0)));
        assert_eq!(mean_and_std(&[5.0]), (5.0, None));
    }
}
