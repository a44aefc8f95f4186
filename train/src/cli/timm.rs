//! Options of timm's `train.py` without a setting: ignored or rejected, on the command line and in YAML files.
use crate::config::IgnoredOption;
use crate::settings::{TIMM_OPTIONS, TimmAnswer, TimmOption, TimmValues};
use crate::{Error, Result};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::Value;
use std::sync::LazyLock;

/// Options of timm that are given and not at their defaults.
#[derive(Default)]
pub struct GivenTimmOptions {
    ignored: Vec<IgnoredOption>,
    rejected: Vec<RejectedOption>,
}

struct RejectedOption {
    flag: String,
    location: String,
    why: &'static str,
    remedy: &'static str,
}

impl GivenTimmOptions {
    /// Adds a value of an option.
    pub fn push(&mut self, option: &TimmOption, value: &Value, location: &str) {
        match option.answer_to(value) {
            None => {}
            Some(TimmAnswer::Ignored(why)) => self.ignored.push(IgnoredOption::new(option.name, why)),
            Some(TimmAnswer::Rejected(why, remedy)) => {
                let flag = format!("--{}", option.name.replace('_', "-"));
                self.rejected.push(RejectedOption { flag, location: location.into(), why, remedy });
            }
        }
    }

    /// The ignored options. Errors on the rejected ones, all of them at once.
    pub fn finish(self) -> Result<Vec<IgnoredOption>> {
        match &self.rejected[..] {
            [] => Ok(self.ignored),
            [RejectedOption { flag, location, why, remedy }] => {
                Err(Error::usage(format!("{flag} of timm is not available"))
                    .at(location)
                    .because(why)
                    .remedy(*remedy))
            }
            several => {
                let line = |RejectedOption { flag, location, why, remedy }: &RejectedOption| {
                    let place = if location == flag { String::new() } else { format!(" ({location})") };
                    format!("{flag}{place}: {why}; {remedy}")
                };
                Err(Error::usage(format!("{} options of timm are not available", several.len()))
                    .because(several.iter().map(line).collect::<Vec<_>>().join("\n")))
            }
        }
    }
}

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

/// The options of a command line that are ignored. Errors on rejected ones.
pub fn check(matches: &ArgMatches) -> Result<Vec<IgnoredOption>> {
    let mut given = GivenTimmOptions::default();
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
        given.push(option, &value, &format!("--{}", option.name.replace('_', "-")));
    }
    given.finish()
}

/// A number, `true` or `false`, or a text.
fn parsed(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
        _ => Value::String(text.into()),
    }
}
