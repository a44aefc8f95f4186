//! Command line of `fornax`: subcommands, error output and exit codes.
mod ckpt;
mod compare;
mod completions;
mod compute;
mod config;
mod datasets;
mod doctor;
mod flags;
mod kernels;
mod launch;
mod local_ranks;
mod lr_find;
mod models;
#[cfg(test)]
mod mutations;
mod output_file;
mod predict;
mod save_weights;
mod schedule;
mod signals;
mod timm;
mod train;
mod usage;
mod val;
mod yaml;

use crate::error::ErrorKind;
use crate::settings::DEFINITIONS;
use crate::{Error, Result};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use config::TrainMatches;
use std::any::TypeId;
use std::ffi::OsString;
use std::panic;
use std::path::PathBuf;
use std::process::ExitCode;

/// Train image models from one binary
#[derive(Parser)]
#[command(name = "fornax", version, arg_required_else_help = true, after_help = EXIT_CODES)]
#[command(disable_help_subcommand = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model; by default on handwritten digits, in less than a minute
    Train(Box<train::TrainArgs>),
    /// Train on several devices of this machine: start one process per device
    Launch(launch::LaunchArgs),
    /// Show the configuration of a run
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Find a peak learning rate: train a few updates with increasing learning rates, and plot the loss
    LrFind(Box<lr_find::LrFindArgs>),
    /// Print and plot the learning-rate schedule of a run
    Schedule(Box<schedule::ScheduleArgs>),
    /// List the models, show their layers, or save initial weights
    Models(Box<models::ModelsArgs>),
    /// Evaluate trained or published models on a dataset
    Val(Box<val::ValArgs>),
    /// Classify images with a trained model
    Predict(Box<predict::PredictArgs>),
    /// Inspect, verify, compare, average, strip and convert checkpoints
    #[command(subcommand)]
    Ckpt(ckpt::CkptCommand),
    /// Compare runs: one page with their curves, results and differing settings
    Compare(compare::CompareArgs),
    /// List, inspect, verify, download, export and preview datasets
    Datasets(Box<datasets::DatasetsArgs>),
    /// List the CUDA kernels, or compile them ahead of time
    #[command(subcommand)]
    Kernels(kernels::KernelsCommand),
    /// Show hardware and libraries
    Doctor,
    /// Print a shell's completion script
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write one per command
    Man(completions::ManArgs),
}

const EXIT_CODES: &str = "\
Exit codes:
    0 success                     5 non-finite loss
    2 usage or configuration      6 out of memory
    3 dataset missing or damaged  7 disk full or not writable
    4 checkpoint unusable         8 another rank lost, or timeout
    9 device unusable            70 internal error (a bug in fornax)
  130 interrupted by Ctrl-C, 143 terminated by SIGTERM, 129 by SIGHUP (terminal closed); a checkpoint is saved";

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    signals::report_file_size_limit();
    panic::set_hook(Box::new(|info| {
        if crate::data::decode::is_decoding() {
            return;
        }
        message!("internal error, please report this bug: {info}");
    }));
    match panic::catch_unwind(run) {
        Ok(code) => ExitCode::from(code),
        Err(_) => ExitCode::from(ErrorKind::Bug.exit_code()),
    }
}

fn run() -> u8 {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let launched = launch::split_command(&mut arguments);
    let is_any = |flags: &[&str]| arguments.iter().any(|argument| flags.iter().any(|flag| argument == flag));
    let asks_for_help = is_any(&["--help", "-h", "--help-all"]);
    let command = command(!asks_for_help || is_any(&["--help-all"]));
    let mut arguments = flags::normalise(arguments, &command);
    let of_command = usage::innermost(&arguments, &command);
    let has_help_all = of_command.get_arguments().any(|arg| arg.get_id() == "help_all");
    if !has_help_all {
        // The help of these commands shows every option.
        arguments
            .iter_mut()
            .filter(|argument| *argument == "--help-all")
            .for_each(|all| *all = "--help".into());
    }
    let innermost = usage::innermost(&arguments, &command);
    if innermost.get_arguments().any(|arg| arg.get_id() == "lr") {
        arguments = flags::without_empty(arguments.clone(), innermost);
    }
    let unknown = if asks_for_help { None } else { usage::unknown_options(&arguments, &command) };
    if let Some(error) = unknown {
        return report(&error);
    }
    let matches = match command.clone().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        // Help and version go to stdout and end with 0; a missing command prints the help to stderr and ends with 2.
        Err(error)
            if asks_for_help
                || error.kind() == clap::error::ErrorKind::DisplayVersion
                || arguments.len() < 2 =>
        {
            // A closed pipe changes neither.
            return match error.print() {
                Err(e) if !error.use_stderr() && e.kind() != std::io::ErrorKind::BrokenPipe => {
                    ErrorKind::Disk.exit_code()
                }
                _ => error.exit_code() as u8,
            };
        }
        Err(error) => return report(&usage::invalid_values(error, &arguments, &command)),
    };
    let result = with_configuration_files(&command, &arguments, matches);
    match result.and_then(|(cli, matches)| execute(cli.command, &matches, &launched)) {
        Ok(()) => 0,
        Err(error) => report(&error),
    }
}

/// Prints an error and returns its exit code.
fn report(error: &Error) -> u8 {
    let prefix = if matches!(error.kind(), ErrorKind::Interrupted(_)) { "" } else { "error: " };
    message!("{prefix}{error}");
    error.kind().exit_code()
}

/// Completes the arguments by the run's options (device, output and others) in configuration files; the command line wins.
fn with_configuration_files(
    command: &clap::Command,
    arguments: &[OsString],
    matches: ArgMatches,
) -> Result<(Cli, TrainMatches)> {
    let of_train = |matches: &ArgMatches| match matches.subcommand() {
        Some(("train", train)) => Some((train.clone(), 2)),
        Some(("config", config)) => config.subcommand_matches("show").map(|show| (show.clone(), 3)),
        _ => None,
    };
    let usage_error = |error: clap::Error| usage::error(&error, arguments, command);
    let Some((command_line, position)) = of_train(&matches) else {
        let cli = Cli::from_arg_matches(&matches).map_err(usage_error)?;
        return Ok((cli, TrainMatches { command_line: matches.clone(), all: matches }));
    };
    let mut ignored = timm::check(&command_line)?;
    let resumes = command_line.value_source("resume") == Some(ValueSource::CommandLine);
    let mut given = vec![];
    for path in command_line.get_many::<PathBuf>("config").into_iter().flatten() {
        let file = yaml::read(path)?;
        ignored.extend(file.ignored);
        // A resumed run stays in its folder.
        let is_used = |name: &str| !(resumes && ["output", "experiment", "overwrite"].contains(&name));
        let options = file.run_options.into_iter().filter(|(name, _)| is_used(name));
        given.extend(options.flat_map(|(_, arguments)| arguments).map(OsString::from));
    }
    let mut all = arguments.to_vec();
    all.splice(position..position, given);
    let matches = command.clone().try_get_matches_from(all).map_err(usage_error)?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(usage_error)?;
    if let Command::Train(args) | Command::Config(config::ConfigCommand::Show(args)) = &mut cli.command {
        args.recipe.ignored = ignored;
    }
    let all = of_train(&matches).map_or(matches, |(matches, _)| matches);
    Ok((cli, TrainMatches { command_line, all }))
}

/// Subcommands with the settings of a run.
const WITH_SETTINGS: [&[&str]; 6] =
    [&["train"], &["config", "show"], &["schedule"], &["datasets", "preview"], &["val"], &["lr-find"]];
/// Options of `fornax train` besides settings that its short help omits.
const RARE_OPTIONS: [&str; 12] = [
    "allow_changed_data",
    "cuda_graph",
    "trace",
    "progress",
    "print_hash",
    "rank",
    "world_size",
    "local_rank",
    "master_addr",
    "master_port",
    "rdzv_id",
    "dist_timeout",
];

/// Definition of the command line, with help on all options or on the usual ones. Every boolean flag of a subcommand is written `--flag`,
/// `--flag=BOOL` or `--no-flag`.
fn command(all_options: bool) -> clap::Command {
    let mut command = Cli::command();
    for path in WITH_SETTINGS {
        command = at(command, path, &|subcommand| subcommand.mut_args(describe_setting));
    }
    for path in WITH_SETTINGS.into_iter().take(2) {
        command = at(command, path, &|subcommand| {
            let subcommand = timm::with_timm_options(subcommand).arg(
                Arg::new("help_all")
                    .long("help-all")
                    .help("Print help on every option")
                    .action(ArgAction::HelpShort)
                    .help_heading("Run"),
            );
            subcommand.mut_args(|arg| match all_options || is_usual(&arg) {
                true => arg,
                false => arg.hide(true),
            })
        });
    }
    command.mut_subcommands(with_boolean_flags)
}

/// Changes the subcommand at a path.
fn at(
    command: clap::Command,
    path: &'static [&'static str],
    change: &dyn Fn(clap::Command) -> clap::Command,
) -> clap::Command {
    match path {
        [] => change(command),
        // Unlike `mut_subcommand`, this keeps the order.
        [first, rest @ ..] => command.mut_subcommands(|subcommand| match subcommand.get_name() == *first {
            true => at(subcommand, rest, change),
            false => subcommand,
        }),
    }
}

/// Adds a setting's range and default to its help.
fn describe_setting(arg: Arg) -> Arg {
    let definition = DEFINITIONS.iter().find(|definition| arg.get_id() == definition.name);
    let takes_no_value =
        arg.get_value_parser().type_id() == TypeId::of::<bool>() || !arg.get_action().takes_values();
    // So that a negative number is reported as out of range, not as an unknown option.
    let arg = if takes_no_value { arg } else { arg.allow_negative_numbers(true) };
    let (Some(definition), Some(help)) = (definition, arg.get_help()) else { return arg };
    let range = definition.range.map(|range| format!(" [{}]", range.text()));
    let default = definition.default.map(|default| format!(" [default: {default}]"));
    let help = format!("{help}{}{}", range.unwrap_or_default(), default.unwrap_or_default());
    arg.help(help)
}

fn is_usual(arg: &Arg) -> bool {
    match DEFINITIONS.iter().find(|definition| arg.get_id() == definition.name) {
        Some(definition) => definition.in_short_help,
        None => !RARE_OPTIONS.contains(&arg.get_id().as_str()),
    }
}

/// Lets every boolean flag take a value.
fn with_boolean_flags(command: clap::Command) -> clap::Command {
    fn boolean(arg: Arg) -> Arg {
        if arg.get_value_parser().type_id() != TypeId::of::<bool>() {
            return arg;
        }
        let arg = match arg.get_action() {
            ArgAction::Set => arg,
            ArgAction::SetTrue => arg.action(ArgAction::Set).default_value("false").hide_default_value(true),
            _ => return arg,
        };
        let arg = arg.value_name("BOOL").num_args(0..=1).require_equals(true);
        arg.default_missing_value("true").hide_possible_values(true)
    }
    command.mut_args(boolean).mut_subcommands(with_boolean_flags)
}

fn execute(command: Command, matches: &TrainMatches, launched: &[OsString]) -> Result<()> {
    match command {
        Command::Config(command) => config::execute(&command, matches),
        Command::Train(args) => train::execute(*args),
        Command::Launch(args) => launch::execute(&args, launched),
        Command::LrFind(args) => lr_find::execute(&args),
        Command::Schedule(args) => schedule::execute(&args),
        Command::Models(args) => models::execute(&args),
        Command::Val(args) => val::execute(&args),
        Command::Predict(args) => predict::execute(&args),
        Command::Ckpt(command) => ckpt::execute(&command),
        Command::Compare(args) => compare::execute(&args),
        Command::Datasets(args) => datasets::execute(&args),
        Command::Kernels(command) => kernels::execute(&command),
        Command::Doctor => doctor::execute(),
        Command::Completions(args) => completions::execute(&args),
        Command::Man(args) => completions::execute_man(&args),
    }
}

/// Writes results to stdout. A closed pipe is not an error: its reader has seen enough.
fn print(text: &str) -> Result<()> {
    use std::io::{ErrorKind, Write};
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::disk("the results cannot be written")
            .at("stdout")
            .because(e)
            .remedy("free some space, or redirect stdout to another file")),
        _ => Ok(()),
    }
}

/// Formats rows as a table; the columns in `right` are right-aligned.
fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let length = |cell: &String| cell.chars().count();
    let widths: Vec<usize> =
        (0..columns).map(|c| rows.iter().filter_map(|r| r.get(c)).map(length).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let pad = |(c, cell): (usize, &String)| {
            let space = " ".repeat(widths[c] - length(cell));
            if right.contains(&c) { space + cell } else { cell.clone() + &space }
        };
        let line = row.iter().enumerate().map(pad).collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Formats rows as a table of at most `width` columns, if possible: the words of the last column continue on further lines.
fn table_within(rows: &[Vec<String>], right: &[usize], width: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(1);
    let length = |c: usize| rows.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max();
    let before: usize = (0..columns - 1).map(|c| length(c).unwrap_or(0) + 2).sum();
    let room = width.saturating_sub(before);
    let mut wrapped = vec![];
    for row in rows {
        let last = row.get(columns - 1).map_or("", String::as_str);
        let mut lines: Vec<String> = vec![String::new()];
        for word in last.split_whitespace() {
            let line = lines.last_mut().expect("there is a line");
            match line.is_empty() || line.chars().count() + 1 + word.chars().count() <= room {
                true if line.is_empty() => line.push_str(word),
                true => *line += &format!(" {word}"),
                false => lines.push(word.into()),
            }
        }
        for (number, line) in lines.into_iter().enumerate() {
            let mut cells = if number == 0 { row.clone() } else { vec![String::new(); columns] };
            cells.resize(columns, String::new());
            cells[columns - 1] = line;
            wrapped.push(cells);
        }
    }
    table(&wrapped, right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_column_wraps_at_the_width() {
        let rows = [vec!["a".to_string(), "one two three".into()], vec!["bbb".into(), "four".into()]];
        assert_eq!(table_within(&rows, &[], 13), "a    one two\n     three\nbbb  four\n");
    }

    #[test]
    fn clap_definitions_are_consistent() {
        command(true).debug_assert();
    }

    #[test]
    fn table_columns_are_aligned() {
        let rows = [vec!["a".to_string(), "10".into(), "x".into()], vec!["bbb".into(), "7".into()]];
        assert_eq!(table(&rows, &[1]), "a    10  x\nbbb   7\n");
    }
}
