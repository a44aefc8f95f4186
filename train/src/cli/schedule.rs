//! `fornax schedule`: the learning-rate schedule of a run, without running it.
use super::{output_file, print, table, yaml};
use crate::config::{Config, IgnoredOption, ignored_warning};
use crate::message::count;
use crate::report::{Figure, lr_figure, terminal_curve};
use crate::schedule::{Curve, Schedule};
use crate::settings::Settings;
use crate::{Error, Result};
use clap::value_parser;
use std::path::{Path, PathBuf};

/// Arguments of `fornax schedule`: the settings of `fornax train` that the learning rate depends on.
#[derive(clap::Args)]
#[command(args_override_self = true, disable_help_flag = true, mut_args(hide_unrelated))]
pub struct ScheduleArgs {
    #[command(flatten)]
    settings: Settings,

    /// Print help
    #[arg(long, short, action = clap::ArgAction::HelpShort, help_heading = "Output")]
    help: Option<bool>,
    /// YAML file with settings, as for `fornax train`
    #[arg(long, short = 'c', value_name = "FILE", help_heading = "Schedule")]
    config: Vec<PathBuf>,
    /// Updates per epoch
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u64).range(1..), help_heading = "Schedule")]
    updates_per_epoch: u64,
    /// Print one JSON object: sched epochs updates_per_epoch unit lr
    #[arg(long, num_args = 0, help_heading = "Output", conflicts_with = "csv")]
    json: bool,
    /// Print CSV with the columns epoch, update and lr
    #[arg(long, num_args = 0, help_heading = "Output")]
    csv: bool,
    /// Plot the curve to a .svg or .png file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    plot: Option<PathBuf>,
}

/// Settings outside of the heading "Schedule" that affect the learning rate.
const OTHER_LR_SETTINGS: [&str; 11] = [
    "defaults",
    "dataset",
    "batch_size",
    "grad_accum_steps",
    "opt",
    "lr",
    "lr_base",
    "lr_base_size",
    "lr_base_scale",
    "seed",
    "eval_metric",
];
/// Maximum number of points of a plotted curve.
const MAX_POINTS: u64 = 600;

fn hide_unrelated(arg: clap::Arg) -> clap::Arg {
    let shown = ["Schedule", "Output"].map(Some).contains(&arg.get_help_heading());
    let hidden = !shown && !OTHER_LR_SETTINGS.contains(&arg.get_id().as_str());
    arg.hide(hidden)
}

/// Prints and plots the learning rates.
pub fn execute(args: &ScheduleArgs) -> Result<()> {
    let given = args.settings.given();
    let unrelated = given.keys().filter(|setting| !affects_lr(setting));
    let why = "the learning rate does not depend on it";
    let unrelated: Vec<IgnoredOption> = unrelated.map(|name| IgnoredOption::new(name, why)).collect();
    let mut settings = Settings::default();
    for path in &args.config {
        settings = yaml::read(path)?.settings.over(settings);
    }
    let of_flags = args.settings.filtered(affects_lr);
    let config = Config::resolve(&of_flags.over(settings.filtered(affects_lr)))?;
    let ignored = ignored_warning(unrelated.iter().chain(&config.ignored));
    ignored.iter().chain(&config.warnings).for_each(|warning| message!("{warning}"));
    let curve = LrCurve { schedule: &config.schedule, updates_per_epoch: args.updates_per_epoch };
    if let Some(path) = &args.plot {
        plot(&curve, path)?;
    }
    let name = config.settings.sched.map_or(String::new(), |sched| sched.name());
    match (args.json, args.csv) {
        (true, _) => curve.print_json(&name),
        (_, true) => curve.print_csv(),
        _ => curve.print_text(&name),
    }?;
    if let Curve::Plateau(_) = config.schedule.curve {
        message!(
            "note: assumes that the metric always improves; plateau reduces the learning rate when it does not"
        );
    }
    Ok(())
}

fn affects_lr(setting: &str) -> bool {
    let command = super::command(true);
    let train = command.find_subcommand("train").expect("it is a subcommand");
    let heading =
        train.get_arguments().find(|arg| arg.get_id() == setting).and_then(|arg| arg.get_help_heading());
    heading == Some("Schedule") || OTHER_LR_SETTINGS.contains(&setting)
}

struct LrCurve<'a> {
    schedule: &'a Schedule,
    updates_per_epoch: u64,
}

impl LrCurve<'_> {
    fn updates(&self) -> u64 {
        u64::from(self.schedule.total_epochs()).saturating_mul(self.updates_per_epoch)
    }

    fn at(&self, update: u64) -> f64 {
        self.schedule.lr_at((update / self.updates_per_epoch) as u32, update, self.updates_per_epoch)
    }

    /// The updates at which the learning rate may change.
    fn changes(&self) -> impl Iterator<Item = u64> + use<> {
        let step = if self.schedule.on_updates { 1 } else { self.updates_per_epoch };
        (0..self.updates() / step).map(move |i| i * step)
    }

    /// At most [`POINTS`] points, evenly spaced over the updates.
    fn sampled(&self) -> Vec<(f64, f64)> {
        let (updates, count) = (self.updates(), self.updates().min(MAX_POINTS));
        let update = |i: u64| i * (updates - 1) / (count - 1).max(1);
        (0..count).map(update).map(|update| (update as f64, self.at(update))).collect()
    }

    fn print_text(&self, name: &str) -> Result<()> {
        let epochs = self.schedule.total_epochs();
        let unit = if self.schedule.on_updates { "update" } else { "epoch" };
        print(&format!(
            "{name}: {} of {}, stepping after every {unit}\n\n",
            count(epochs.into(), "epoch"),
            count(self.updates_per_epoch, "update")
        ))?;
        let values: Vec<f64> = self.sampled().iter().map(|point| point.1).collect();
        print(&terminal_curve(&values))?;
        let row = |epoch: u64| {
            let first = epoch * self.updates_per_epoch;
            [first, first + self.updates_per_epoch - 1].map(|update| format!("{:.6e}", self.at(update)))
        };
        let mut rows = vec![["EPOCH", "FIRST UPDATE", "LAST UPDATE"].map(String::from).to_vec()];
        rows.extend((0..u64::from(epochs)).map(|epoch| {
            let [first, last] = row(epoch);
            vec![epoch.to_string(), first, last]
        }));
        print(&format!("\n{}", table(&rows, &[0, 1, 2])))
    }

    fn print_csv(&self) -> Result<()> {
        let line =
            |update: u64| format!("{},{update},{}\n", update / self.updates_per_epoch, self.at(update));
        let lines: String = self.changes().map(line).collect();
        print(&format!("epoch,update,lr\n{lines}"))
    }

    fn print_json(&self, name: &str) -> Result<()> {
        let lrs: Vec<f64> = self.changes().map(|update| self.at(update)).collect();
        let object = serde_json::json!({
            "sched": name,
            "epochs": self.schedule.total_epochs(),
            "updates_per_epoch": self.updates_per_epoch,
            "unit": if self.schedule.on_updates { "update" } else { "epoch" },
            "lr": lrs,
        });
        print(&format!("{object}\n"))
    }
}

fn plot(curve: &LrCurve, path: &Path) -> Result<()> {
    let Figure { svg, png } = lr_figure(curve.sampled());
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg") => output_file::write(path, svg.as_bytes()),
        Some("png") => output_file::write(path, &png),
        _ => Err(Error::usage("unsupported plot format")
            .at_path(path)
            .remedy("pass a file name that ends with .svg or .png")),
    }
}
