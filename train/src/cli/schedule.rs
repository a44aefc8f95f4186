//! `fornax schedule`: the learning rates of a run, before it is made.
use super::{print, table, yaml};
use crate::checkpoint::durable;
use crate::config::Config;
use crate::report::{Figure, lr_figure, terminal_curve};
use crate::schedule::{Curve, Schedule};
use crate::settings::Settings;
use crate::{Error, Result};
use clap::{CommandFactory, value_parser};
use std::path::{Path, PathBuf};

/// What `fornax schedule` accepts: the settings of `fornax train` that the rate depends on.
#[derive(clap::Args)]
#[command(args_override_self = true, disable_help_flag = true, mut_args(hide_the_rest))]
pub struct ScheduleArgs {
    #[command(flatten)]
    settings: Settings,

    /// Print help
    #[arg(long, short, action = clap::ArgAction::HelpShort, help_heading = "Output")]
    help: Option<bool>,
    /// YAML file with settings, as for `fornax train`
    #[arg(long, short = 'c', value_name = "FILE", help_heading = "Schedule")]
    config: Vec<PathBuf>,
    /// Updates in an epoch: training images by the images of an update
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u64).range(1..), help_heading = "Schedule")]
    updates_per_epoch: u64,
    /// Print one JSON object: sched epochs updates_per_epoch unit lr
    #[arg(long, num_args = 0, help_heading = "Output", conflicts_with = "csv")]
    json: bool,
    /// Print a table with the columns epoch, update and lr
    #[arg(long, num_args = 0, help_heading = "Output")]
    csv: bool,
    /// Draw the curve into a file, whose name ends with .svg or .png
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    plot: Option<PathBuf>,
}

/// Settings beside those of the section "Schedule" that rates depend on.
const OTHERS: [&str; 10] = [
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
/// Points of a curve.
const POINTS: u64 = 600;

fn hide_the_rest(arg: clap::Arg) -> clap::Arg {
    let shown = ["Schedule", "Output"].map(Some).contains(&arg.get_help_heading());
    let hidden = !shown && !OTHERS.contains(&arg.get_id().as_str());
    arg.hide(hidden)
}

/// Prints and draws the rates.
pub fn execute(args: &ScheduleArgs) -> Result<()> {
    if let Some(setting) = args.settings.given().keys().find(|setting| !counts(setting)) {
        let flag = setting.replace('_', "-");
        return Err(Error::usage(format!("--{flag} would have no effect"))
            .because("the learning rate does not depend on it")
            .remedy("leave it out"));
    }
    let mut settings = Settings::default();
    for path in &args.config {
        settings = yaml::read(path)?.over(settings);
    }
    let config = Config::resolve(&args.settings.clone().over(settings.keeping(counts)))?;
    let rates = Rates { schedule: &config.schedule, updates_per_epoch: args.updates_per_epoch };
    if let Some(path) = &args.plot {
        draw(&rates, path)?;
    }
    let name = config.settings.sched.map_or(String::new(), |sched| sched.name());
    match (args.json, args.csv) {
        (true, _) => rates.print_json(&name),
        (_, true) => rates.print_csv(),
        _ => rates.print_text(&name),
    }
    if let Curve::Plateau(_) = config.schedule.curve {
        eprintln!("note: shown as if the metric always improved; what a plateau does depends on it");
    }
    Ok(())
}

fn counts(setting: &str) -> bool {
    let command = super::Cli::command();
    let train = command.find_subcommand("train").expect("it is a subcommand");
    let heading =
        train.get_arguments().find(|arg| arg.get_id() == setting).and_then(|arg| arg.get_help_heading());
    heading == Some("Schedule") || OTHERS.contains(&setting)
}

struct Rates<'a> {
    schedule: &'a Schedule,
    updates_per_epoch: u64,
}

impl Rates<'_> {
    fn updates(&self) -> u64 {
        u64::from(self.schedule.total_epochs()).saturating_mul(self.updates_per_epoch)
    }

    fn at(&self, update: u64) -> f64 {
        self.schedule.lr_at((update / self.updates_per_epoch) as u32, update, self.updates_per_epoch)
    }

    /// The updates at which the rate may change.
    fn changes(&self) -> impl Iterator<Item = u64> + use<> {
        let step = if self.schedule.on_updates { 1 } else { self.updates_per_epoch };
        (0..self.updates() / step).map(move |i| i * step)
    }

    /// So many points, or fewer if there are fewer updates.
    fn sampled(&self) -> Vec<(f64, f64)> {
        let (updates, count) = (self.updates(), self.updates().min(POINTS));
        let update = |i: u64| i * (updates - 1) / (count - 1).max(1);
        (0..count).map(update).map(|update| (update as f64, self.at(update))).collect()
    }

    fn print_text(&self, name: &str) {
        let epochs = self.schedule.total_epochs();
        let unit = if self.schedule.on_updates { "update" } else { "epoch" };
        print(&format!(
            "{name}: {epochs} epochs of {} updates, changing after every {unit}\n\n",
            self.updates_per_epoch
        ));
        let values: Vec<f64> = self.sampled().iter().map(|point| point.1).collect();
        print(&terminal_curve(&values));
        let row = |epoch: u64| {
            let first = epoch * self.updates_per_epoch;
            [first, first + self.updates_per_epoch - 1].map(|update| format!("{:.6e}", self.at(update)))
        };
        let mut rows = vec![["EPOCH", "FIRST UPDATE", "LAST UPDATE"].map(String::from).to_vec()];
        rows.extend((0..u64::from(epochs)).map(|epoch| {
            let [first, last] = row(epoch);
            vec![epoch.to_string(), first, last]
        }));
        print(&format!("\n{}", table(&rows, &[0, 1, 2])));
    }

    fn print_csv(&self) {
        print("epoch,update,lr\n");
        let line =
            |update: u64| format!("{},{update},{}\n", update / self.updates_per_epoch, self.at(update));
        self.changes().for_each(|update| print(&line(update)));
    }

    fn print_json(&self, name: &str) {
        let rates: Vec<f64> = self.changes().map(|update| self.at(update)).collect();
        let object = serde_json::json!({
            "sched": name,
            "epochs": self.schedule.total_epochs(),
            "updates_per_epoch": self.updates_per_epoch,
            "unit": if self.schedule.on_updates { "update" } else { "epoch" },
            "lr": rates,
        });
        print(&format!("{object}\n"));
    }
}

fn draw(rates: &Rates, path: &Path) -> Result<()> {
    let Figure { svg, png } = lr_figure(rates.sampled());
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg") => durable::write(path, svg.as_bytes()),
        Some("png") => durable::write(path, &png),
        _ => Err(Error::usage("the kind of picture is not known")
            .at_path(path)
            .remedy("give a name that ends with .svg or .png")),
    }
}
