//! `fornax compare`.
use super::{output_file, print, table};
use crate::Result;
use crate::report::{ComparedRun, comparison_page, differing_settings};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Arguments of `fornax compare`.
#[derive(clap::Args)]
pub struct CompareArgs {
    /// Folders of runs, such as output/train/RUN
    #[arg(value_name = "RUN", required = true, num_args = 2..)]
    runs: Vec<PathBuf>,
    /// File of the page: curves of all runs, results, and the settings that differ
    #[arg(long, short, value_name = "FILE", default_value = "compare.html")]
    output: PathBuf,
    /// Print one JSON object per run
    #[arg(long)]
    json: bool,
}

pub fn execute(args: &CompareArgs) -> Result<()> {
    let runs = args.runs.iter().map(|folder| read(folder)).collect::<Result<Vec<_>>>()?;
    output_file::write(&args.output, comparison_page(&runs).as_bytes())?;
    let differing = differing_settings(&runs);
    if args.json {
        let lines = runs.iter().enumerate().map(|(i, run)| {
            let settings: serde_json::Map<String, Value> =
                differing.iter().map(|(name, values)| (name.clone(), values[i].clone())).collect();
            let [top1, eval_loss, train_loss] = run.last;
            let line = json!({
                "run": args.runs[i], "best_top1": run.best.map(|best| best.0), "best_epoch": run.best.map(|best| best.1),
                "top1": top1, "eval_loss": eval_loss, "train_loss": train_loss, "epochs": run.epochs,
                "seconds": run.seconds, "images_per_second": run.images_per_second, "settings": settings,
            });
            format!("{line}\n")
        });
        return print(&lines.collect::<String>());
    }
    print(&format!("{}{}\n", text(&runs, &differing), args.output.display()))
}

fn read(folder: &Path) -> Result<ComparedRun> {
    let args = folder.join("args.yaml");
    let settings =
        if args.is_file() { super::yaml::read(&args)?.settings.given() } else { Default::default() };
    ComparedRun::read(folder, settings)
}

/// A row per result and per differing setting, a column per run.
fn text(runs: &[ComparedRun], differing: &[(String, Vec<Value>)]) -> String {
    let mut rows =
        vec![["".into()].into_iter().chain(runs.iter().map(|run| run.name.clone())).collect::<Vec<_>>()];
    let results: Vec<_> = runs.iter().map(ComparedRun::results).collect();
    for i in 0..results[0].len() {
        let cells = results.iter().map(|of_run| of_run[i].1.clone());
        rows.push([results[0][i].0.to_string()].into_iter().chain(cells).collect());
    }
    for (name, values) in differing {
        let cells = values.iter().map(|value| match value {
            Value::Null => "–".into(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        rows.push([name.clone()].into_iter().chain(cells).collect());
    }
    let columns: Vec<usize> = (1..=runs.len()).collect();
    table(&rows, &columns)
}
