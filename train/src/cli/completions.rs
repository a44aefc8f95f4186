//! `fornax completions` and `fornax man`: completion scripts and manual pages, generated from the definition of the command line.
use super::{output_file, print};
use crate::optim::optimizer_names;
use crate::{Error, Result};
use clap::builder::PossibleValuesParser;
use clap::{Arg, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use fornax_nn::models::list_models;
use std::path::PathBuf;

/// Arguments of `fornax completions`.
#[derive(clap::Args)]
pub struct CompletionsArgs {
    /// Shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Arguments of `fornax man`.
#[derive(clap::Args)]
pub struct ManArgs {
    /// Write fornax.1 and a page per command to this folder, such as ~/.local/share/man/man1
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub fn execute(args: &CompletionsArgs) -> Result<()> {
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut with_names(super::command(true)), "fornax", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Adds the names of models and optimizers, which are parsed as texts, to the options of a command and its subcommands.
fn with_names(command: Command) -> Command {
    let named = |arg: Arg| match arg.get_id().as_str() {
        "model" => arg.value_parser(PossibleValuesParser::new(list_models().map(|info| info.name))),
        "opt" => arg.value_parser(PossibleValuesParser::new(optimizer_names())),
        _ => arg,
    };
    command.mut_args(named).mut_subcommands(with_names)
}

pub fn execute_man(args: &ManArgs) -> Result<()> {
    let mut command = super::command(true).name("fornax");
    command.build();
    let Some(folder) = &args.output else { return print(&String::from_utf8_lossy(&page(&command))) };
    std::fs::create_dir_all(folder).map_err(|e| {
        Error::disk("the folder cannot be created")
            .at_path(folder)
            .because(e)
            .remedy("choose another --output")
    })?;
    let mut count = 0;
    for (name, command) in pages(&command, "fornax".into()) {
        output_file::write(&folder.join(format!("{name}.1")), &page(&command.name(name)))?;
        count += 1;
    }
    print(&format!("{count} manual pages in {}\n", folder.display()))
}

/// A command and its subcommands, with the names of their pages, such as `fornax-ckpt-info`.
fn pages(command: &clap::Command, name: String) -> Vec<(String, clap::Command)> {
    let mut all = vec![(name.clone(), command.clone().disable_help_subcommand(true))];
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        all.extend(pages(subcommand, format!("{name}-{}", subcommand.get_name())));
    }
    all
}

fn page(command: &clap::Command) -> Vec<u8> {
    let mut page = vec![];
    // Writing to memory does not fail.
    Man::new(command.clone()).render(&mut page).ok();
    page
}
