//! `fornax lr-find`: learning-rate range test of a recipe.
use super::compute::{ComputeArgs, ignored_conv_algo};
use super::signals::Signals;
use super::train::RecipeArgs;
use super::{output_file, print};
use crate::config::{Config, IgnoredOption};
use crate::experiment::Experiment;
use crate::lr_finder::{LrCurve, LrRange, find_lr};
use crate::report::{Figure, lr_range_figure, terminal_curve};
use crate::{Error, Result};
use clap::value_parser;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `fornax lr-find`: the recipe of `fornax train`, and the range.
#[derive(clap::Args, Clone)]
#[command(args_override_self = true, disable_help_flag = true, mut_args(hide_ignored), after_help = NOTES)]
pub struct LrFindArgs {
    #[command(flatten)]
    recipe: RecipeArgs,

    /// First learning rate
    #[arg(long, value_name = "LR", default_value_t = 1e-7, value_parser = positive, help_heading = "Range")]
    start_lr: f64,
    /// Last learning rate
    #[arg(long, value_name = "LR", default_value_t = 10.0, value_parser = positive, help_heading = "Range")]
    end_lr: f64,
    /// Number of updates
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u64).range(10..), help_heading = "Range")]
    num_updates: u64,

    #[command(flatten)]
    compute: ComputeArgs,
    /// Print help
    #[arg(long, short, action = clap::ArgAction::HelpShort, help_heading = "Run")]
    help: Option<bool>,

    /// Plot the loss over the learning rate to a .svg or .png file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    plot: Option<PathBuf>,
    /// Print one JSON object: suggestion lr loss smoothed diverged
    #[arg(long, help_heading = "Output", conflicts_with = "csv")]
    json: bool,
    /// Print CSV with the columns update, lr, loss and smoothed
    #[arg(long, help_heading = "Output")]
    csv: bool,
}

const NOTES: &str = "\
The test trains a new model and leaves no files but --plot. It ends where the smoothed loss exceeds four times its minimum.
The suggestion is the learning rate at which the smoothed loss falls fastest; pass it to `fornax train` with --lr.";

/// Settings outside of the heading "Schedule" that the test does not depend on.
const IGNORED_SETTINGS: [&str; 10] = [
    "lr",
    "lr_base",
    "lr_base_size",
    "lr_base_scale",
    "val_num_samples",
    "validation_batch_size",
    "model_ema",
    "model_ema_decay",
    "eval_metric",
    "tta",
];

fn is_ignored(arg: &clap::Arg) -> bool {
    arg.get_help_heading() == Some("Schedule") || IGNORED_SETTINGS.contains(&arg.get_id().as_str())
}

fn hide_ignored(arg: clap::Arg) -> clap::Arg {
    let ignored = is_ignored(&arg);
    if ignored { arg.hide(true) } else { arg }
}

/// Runs the test and prints the suggestion.
pub fn execute(args: &LrFindArgs) -> Result<()> {
    let mut args = args.clone();
    remove_ignored(&mut args.recipe);
    if args.end_lr <= args.start_lr {
        return Err(Error::usage("the range of learning rates is empty")
            .at("--start-lr, --end-lr")
            .because(format!("it goes from {} to {}", args.start_lr, args.end_lr))
            .remedy("raise --end-lr"));
    }
    if let Some(path) = &args.plot {
        check_plot(path)?;
    }
    args.compute.set_threads()?;
    let device = args.compute.device.open()?;
    args.recipe.ignored.extend(ignored_conv_algo(args.recipe.settings.conv_algo, &device));
    let mut config = Config::resolve(&args.recipe.settings()?)?;
    config.ignore_dataset_options();
    args.recipe.warnings(&config).iter().for_each(|warning| message!("{warning}"));
    let mut experiment = Experiment::new(config);
    experiment.device = device;
    experiment.signals = Box::new(Signals::listen(|_| ())?);
    let range = LrRange { start: args.start_lr, end: args.end_lr, updates: args.num_updates };
    let curve = find_lr(&mut experiment, &range)?;
    if let Some(path) = &args.plot {
        let Figure { svg, png } = lr_range_figure(&curve);
        let is_svg = path.extension().is_some_and(|extension| extension == "svg");
        output_file::write(path, if is_svg { svg.as_bytes() } else { &png })?;
    }
    print(&match (args.json, args.csv) {
        (true, _) => as_json(&curve),
        (_, true) => as_csv(&curve),
        _ => text(&curve, &experiment.config.model.name),
    })
}

/// Removes the settings of the command line that the test does not depend on.
fn remove_ignored(recipe: &mut RecipeArgs) {
    let command = super::command(true);
    let own = command.find_subcommand("lr-find").map(|own| own.get_arguments().collect::<Vec<_>>());
    let own = own.unwrap_or_default();
    let is_ignored = |name: &str| own.iter().any(|arg| arg.get_id() == name && is_ignored(arg));
    let why = "the learning rate of the test rises from --start-lr to --end-lr, and nothing is evaluated";
    let given = recipe.settings.given();
    let ignored = given.keys().filter(|name| is_ignored(name));
    recipe.ignored.extend(ignored.map(|name| IgnoredOption::new(name, why)));
    recipe.settings = recipe.settings.filtered(|name| !is_ignored(name));
}

fn check_plot(path: &Path) -> Result<()> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg" | "png") => match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
                Err(Error::disk("the plot cannot be written")
                    .at_path(path)
                    .because("its folder does not exist")
                    .remedy("create the folder, or choose another file"))
            }
            _ => Ok(()),
        },
        _ => Err(Error::usage("unsupported plot format")
            .at_path(path)
            .remedy("pass a file name that ends with .svg or .png")),
    }
}

fn text(curve: &LrCurve, model: &str) -> String {
    let [first, last] = [curve.lr.first(), curve.lr.last()].map(|lr| lr.copied().unwrap_or(0.0));
    let end = if curve.diverged { ", where the loss diverged" } else { "" };
    let count = curve.lr.len();
    let mut text =
        format!("{model}: smoothed training loss of {count} updates, lr {first:.1e} to {last:.1e}{end}\n\n");
    let [low, high] = curve.loss_range();
    let shown: Vec<f64> = curve.smoothed.iter().map(|loss| loss.clamp(low, high)).collect();
    text += &terminal_curve(&shown);
    text += &match curve.suggestion() {
        Some(lr) => format!("\nsuggestion: --lr {lr:.2e}, where the loss falls fastest\n"),
        None => "\nno suggestion: the loss never falls; raise --end-lr or --num-updates\n".into(),
    };
    text
}

fn as_json(curve: &LrCurve) -> String {
    let object = json!({
        "suggestion": curve.suggestion(),
        "diverged": curve.diverged,
        "lr": curve.lr,
        "loss": curve.loss,
        "smoothed": curve.smoothed,
    });
    format!("{object}\n")
}

fn as_csv(curve: &LrCurve) -> String {
    let mut text = "update,lr,loss,smoothed\n".to_string();
    for (update, lr) in curve.lr.iter().enumerate() {
        text += &format!("{update},{lr},{},{}\n", curve.loss[update], curve.smoothed[update]);
    }
    text
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    let value = text.parse::<f64>().map_err(|_| "must be a number".to_string())?;
    if value > 0.0 && value.is_finite() { Ok(value) } else { Err("must be above 0".into()) }
}
