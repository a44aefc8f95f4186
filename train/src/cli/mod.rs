//! Command line of `fornax`: subcommands, error output and exit codes.
mod datasets;
mod doctor;
mod flags;
mod kernels;
mod models;
mod predict;
mod save_weights;
mod schedule;
mod signals;
mod train;
mod yaml;

use crate::Result;
use crate::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::panic;
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
    /// Print and plot the learning-rate schedule of a run
    Schedule(Box<schedule::ScheduleArgs>),
    /// List the models, show their layers, or save initial weights
    Models(Box<models::ModelsArgs>),
    /// Classify images with a trained model
    Predict(Box<predict::PredictArgs>),
    /// List the datasets and their sources
    Datasets,
    /// List the CUDA kernels, or compile them ahead of time
    #[command(subcommand)]
    Kernels(kernels::KernelsCommand),
    /// Show hardware and libraries
    Doctor,
}

const EXIT_CODES: &str = "\
Exit codes:
    0 success                     5 non-finite loss
    2 usage or configuration      6 out of memory
    3 dataset missing or damaged  7 disk full or not writable
    4 checkpoint unusable         9 device unusable
   70 internal error (a bug in fornax)
  130 interrupted by Ctrl-C, 143 terminated by SIGTERM; a checkpoint is saved";

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    panic::set_hook(Box::new(|info| {
        if crate::data::decode::is_decoding() {
            return;
        }
        eprintln!("internal error, please report this bug: {info}");
    }));
    match panic::catch_unwind(run) {
        Ok(code) => ExitCode::from(code),
        Err(_) => ExitCode::from(ErrorKind::Bug.exit_code()),
    }
}

fn run() -> u8 {
    let command = Cli::command();
    let arguments = flags::normalise(std::env::args_os(), &command);
    let parsed = command.try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout and ends with 0, an error to stderr and 2; a closed pipe changes neither.
            error.print().ok();
            return error.exit_code() as u8;
        }
    };
    match execute(cli.command) {
        Ok(()) => 0,
        Err(error) => {
            let prefix = if matches!(error.kind(), ErrorKind::Interrupted(_)) { "" } else { "error: " };
            eprintln!("{prefix}{error}");
            error.kind().exit_code()
        }
    }
}

fn execute(command: Command) -> Result<()> {
    match command {
        Command::Train(args) => train::execute(*args),
        Command::Schedule(args) => schedule::execute(&args),
        Command::Models(args) => models::execute(&args),
        Command::Predict(args) => predict::execute(&args),
        Command::Datasets => datasets::execute(),
        Command::Kernels(command) => kernels::execute(&command),
        Command::Doctor => doctor::execute(),
    }
}

/// Writes results to stdout; a closed pipe is not an error.
fn print(text: &str) {
    use std::io::Write;
    std::io::stdout().write_all(text.as_bytes()).ok();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn table_columns_are_aligned() {
        let rows = [vec!["a".to_string(), "10".into(), "x".into()], vec!["bbb".into(), "7".into()]];
        assert_eq!(table(&rows, &[1]), "a    10  x\nbbb   7\n");
    }
}
