//! Options of timm's `train.py` without a setting: accepted or refused, on the command line and in YAML files.
use crate::settings::{TIMM_OPTIONS, TimmOption, TimmValues};
use crate::{Error, Result};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::Value;
use std::sync::LazyLock;

/// Adds the options to a command; its help does not show them.
pub fn with_timm_options(command: Command) -> Command {
    static LONGS: LazyLock<Vec<String>> =
        LazyLock::new(|| TIMM_OPTIONS.iter().map(|option| option.name.replace('_', "-")).collect());
    command.args(TIMM_OPTIONS.iter().zip(LONGS.iter()).map(|(option, long)| {
        let arg = Arg::new(option.name).long(long.as_str()).hide(true).action(ArgAction::Set);
        match option.values {
            TimmValues::Switch => arg.value_parser(value_parser!(bool)),
            TimmValues::One => arg,
            TimmValues::Optional => arg.num_args(0..=1).default_missing_value("inductor"),
            TimmValues::Many => arg.num_args(0..),
        }
    }))
}

/// Checks the options in parsed arguments. Errors on refused ones; returns the names of the others that are given.
pub fn check(matches: &ArgMatches) -> Result<Vec<String>> {
    let mut accepted = vec![];
    for option in TIMM_OPTIONS {
        if matches.value_source(option.name) != Some(ValueSource::CommandLine) {
            continue;
        }
        let values = matches.get_raw(option.name).into_iter().flatten();
        let mut values: Vec<Value> = values.map(|value| parsed(&value.to_string_lossy())).collect();
        let value = match (option.values, values.len()) {
            (TimmValues::Many, _) => Value::Array(values),
            (_, 0) => Value::Null,
            _ => values.swap_remove(0),
        };
        check_value(option, &value, &format!("--{}", option.name.replace('_', "-")))?;
        accepted.push(option.name.to_string());
    }
    Ok(accepted)
}

/// Errors if the value of an option is refused.
pub fn check_value(option: &TimmOption, value: &Value, location: &str) -> Result<()> {
    match option.refusal(value) {
        None => Ok(()),
        Some((why, remedy)) => {
            let flag = option.name.replace('_', "-");
            Err(Error::usage(format!("--{flag} of timm is not available"))
                .at(location)
                .because(why)
                .remedy(remedy))
        }
    }
}

/// A number, `true` or `false`, or a text.
fn parsed(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
        _ => Value::String(text.into()),
    }
}
