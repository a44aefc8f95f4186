//! `fornax config`: the configuration of a run, without running it.
use super::train::TrainArgs;
use super::{print, table};
use crate::Result;
use crate::config::{Config, Origin};
use crate::settings::{DEFINITIONS, TimmOption};
use clap::parser::ValueSource;
use clap::{ArgMatches, Subcommand};
use serde_json::Value;

/// Subcommands of `fornax config`.
#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Print every option of `fornax train` with its value and where the value comes from
    Show(Box<TrainArgs>),
}

/// Options whose value may follow from another option.
const DERIVED: [(&str, &[&str]); 4] = [
    ("lr", &["lr_base"]),
    ("opt_level", &["amp", "model_dtype"]),
    ("amp_dtype", &["model_dtype"]),
    ("input_size", &["img_size", "in_chans", "input_img_mode"]),
];

/// Parsed arguments of a command with the options of `fornax train`.
pub struct TrainMatches {
    /// Those of the command line.
    pub command_line: ArgMatches,
    /// Those of the command line and of configuration files.
    pub all: ArgMatches,
}

/// Runs `fornax config`.
pub fn execute(ConfigCommand::Show(args): &ConfigCommand, matches: &TrainMatches) -> Result<()> {
    let recipe = &args.recipe;
    let (command_line, files) = (recipe.command_line()?.given(), recipe.files()?);
    let mut settings = recipe.settings()?;
    let merged = settings.given();
    let line_of = |name: &str| {
        // Another optimizer on the command line drops the options of that in a file.
        let is_run_option = !DEFINITIONS.iter().any(|definition| definition.name == name);
        if !is_run_option && !merged.contains_key(name) {
            return None;
        }
        let file = files.iter().rev().find(|(_, file)| file.lines.contains_key(name))?;
        Some(format!("{}, line {}", file.0.display(), file.1.lines[name]))
    };
    let given_at = |name: &str| match command_line.contains_key(name) {
        true => Some("command line".to_string()),
        false => line_of(name),
    };
    let seeds = settings.seeds.take();
    let mut config = Config::resolve(&settings)?;
    config.ignore_dataset_options();
    recipe.warnings(&config).iter().for_each(|warning| message!("{warning}"));
    let data = config.data.dataset.open()?;
    config.resolve_input(&data)?;
    let mut values = config.settings.given();
    if let Some(seeds) = seeds {
        values.remove("seed");
        values.insert("seeds".into(), seeds.to_string().into());
    }
    let mut rows = vec![["OPTION", "VALUE", "ORIGIN"].map(String::from).to_vec()];
    for definition in DEFINITIONS {
        let name = definition.name;
        let sources = DERIVED.iter().filter(|(derived, _)| *derived == name).flat_map(|(_, from)| *from);
        let derived = || sources.copied().find_map(|from| Some(format!("{from}, {}", given_at(from)?)));
        let origin = given_at(name).or_else(derived).unwrap_or_else(|| {
            let origin = match config.origin(name, &data) {
                Origin::Default => "default",
                Origin::DatasetRecipe => "dataset recipe",
                Origin::Dataset => "dataset",
                Origin::Weights => "weights file",
                Origin::Model => "model",
                Origin::Optimizer => "optimizer",
            };
            origin.into()
        });
        rows.push(vec![name.into(), values.get(name).map_or("-".into(), text), origin]);
    }
    let train = super::command(true);
    let train = train.find_subcommand("train").expect("it is a subcommand");
    for arg in train.get_arguments() {
        let name = arg.get_id().as_str();
        let is_setting = DEFINITIONS.iter().any(|definition| definition.name == name);
        if is_setting
            || TimmOption::find(name).is_some()
            || ["dir", "config", "help", "help_all"].contains(&name)
        {
            continue;
        }
        let given = matches.all.get_raw(name).into_iter().flatten().map(|value| value.to_string_lossy());
        let value = given.collect::<Vec<_>>().join(" ");
        let origin = match matches.command_line.value_source(name) {
            Some(ValueSource::CommandLine) => "command line".into(),
            _ => line_of(name).unwrap_or_else(|| "default".into()),
        };
        rows.push(vec![name.into(), if value.is_empty() { "-".into() } else { value }, origin]);
    }
    print(&table(&rows, &[]))
}

/// A value as on the command line.
fn text(value: &Value) -> String {
    match value {
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(" "),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
