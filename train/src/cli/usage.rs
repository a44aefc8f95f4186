//! Errors of the command line in the form of all errors: what, where, why, remedy.
use crate::Error;
use crate::nearest::{nearest, synonym};
use crate::settings::DEFINITIONS;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};
use fornax_nn::ModelOptions;
use std::error::Error as _;
use std::ffi::OsString;

/// The error about options that `command`, a subcommand of `root`, does not have; `None` if it has all of them.
pub fn unknown_options(arguments: &[OsString], root: &Command) -> Option<Error> {
    let (path, command, rest) = subcommand(arguments, root);
    if command.has_subcommands() {
        return None;
    }
    let rest = rest.iter().filter_map(|argument| argument.to_str()).take_while(|argument| *argument != "--");
    let names = rest.filter_map(|argument| argument.strip_prefix("--"));
    let mut unknown: Vec<&str> = vec![];
    for name in names.map(|name| name.split_once('=').map_or(name, |(name, _)| name)) {
        if !has_option(command, name) && !unknown.contains(&name) {
            unknown.push(name);
        }
    }
    let [first, others @ ..] = &unknown[..] else { return None };
    let help = match path.as_str() {
        "train" | "config show" => format!("`fornax {path} --help-all` lists the options"),
        _ => format!("`fornax {path} --help` lists the options"),
    };
    if others.is_empty() {
        let error = Error::usage(format!("unknown option --{first}")).at(format!("fornax {path}"));
        return Some(error.remedy(hint(first, &path, command, root).unwrap_or(help)));
    }
    let lines = unknown.iter().map(|name| match hint(name, &path, command, root) {
        Some(hint) => format!("--{name}: {hint}"),
        None => format!("--{name}"),
    });
    let error = Error::usage(format!("{} unknown options", unknown.len())).at(format!("fornax {path}"));
    Some(error.because(lines.collect::<Vec<_>>().join("\n")).remedy(help))
}

/// The subcommand that the arguments of the process name.
pub fn innermost<'a>(arguments: &'a [OsString], root: &'a Command) -> &'a Command {
    subcommand(arguments, root).1
}

/// Name, definition and arguments of the subcommand that the arguments of the process name.
fn subcommand<'a>(arguments: &'a [OsString], root: &'a Command) -> (String, &'a Command, &'a [OsString]) {
    let (mut path, mut command, mut rest) = (vec![], root, arguments.get(1..).unwrap_or_default());
    while let Some((name, after)) = rest.split_first()
        && let Some(found) = name.to_str().and_then(|name| command.find_subcommand(name))
    {
        (command, rest) = (found, after);
        path.push(found.get_name());
    }
    (path.join(" "), command, rest)
}

fn has_option(command: &Command, name: &str) -> bool {
    let is_named = |arg: &Arg| {
        arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
    };
    name == "help"
        || (name == "version" && command.get_version().is_some())
        || command.get_arguments().any(is_named)
}

/// Advice about an unknown option: a similar one, the command that has it, or the setting of the library.
fn hint(name: &str, path: &str, command: &Command, root: &Command) -> Option<String> {
    let key = name.replace('-', "_");
    let mut owner = None;
    collect_commands(root, &mut vec![], &mut |other, definition| {
        if owner.is_none() && other != path && has_option(definition, name) {
            owner = Some(format!("it is an option of `fornax {other}`"));
        }
    });
    if let Some(own) = synonym(name).filter(|own| has_option(command, own)) {
        return Some(format!("did you mean --{own}?"));
    }
    if owner.is_some() {
        return owner;
    }
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(Arg::get_long);
    if let Some(near) = nearest(name, shown) {
        return Some(format!("did you mean --{near}?"));
    }
    let is_model_option = has_option(command, "model-kwargs") && ModelOptions::NAMES.contains(&key.as_str());
    is_model_option.then(|| format!("pass it as --model-kwargs {key}=VALUE"))
}

fn collect_commands(command: &Command, path: &mut Vec<String>, visit: &mut impl FnMut(&str, &Command)) {
    for subcommand in command.get_subcommands() {
        path.push(subcommand.get_name().into());
        match subcommand.has_subcommands() {
            true => collect_commands(subcommand, path, visit),
            false => visit(&path.join(" "), subcommand),
        }
        path.pop();
    }
}

/// One error for several about values: a single one as it is.
pub fn together(mut errors: Vec<Error>) -> Option<Error> {
    if errors.len() < 2 {
        return errors.pop();
    }
    let lines = errors.iter().map(|error| error.to_string().replacen("invalid value", "value", 1));
    let error = Error::usage(format!("{} invalid values", errors.len()));
    Some(error.because(lines.collect::<Vec<_>>().join("\n")))
}

/// The errors about the values of options in the arguments of a command, beginning with the first one that the parser found.
pub fn invalid_values(first: clap::Error, arguments: &[OsString], root: &Command) -> Error {
    let is_value = |error: &clap::Error| {
        use ErrorKind::{InvalidValue, TooFewValues, ValueValidation, WrongNumberOfValues};
        [InvalidValue, TooFewValues, ValueValidation, WrongNumberOfValues].contains(&error.kind())
    };
    let (mut errors, mut arguments, mut next) = (vec![], arguments.to_vec(), Some(first));
    while let Some(found) = next.take() {
        if !errors.is_empty() && !is_value(&found) {
            break;
        }
        errors.push(error(&found, &arguments, root));
        let option = invalid_option(&found);
        if !is_value(&found) || !option.starts_with("--") || !remove_option(&mut arguments, &option) {
            break;
        }
        next = root.clone().try_get_matches_from(&arguments).err();
    }
    together(errors).expect("there is a first error")
}

/// Removes an option and its values; false if it is not in the arguments.
fn remove_option(arguments: &mut Vec<OsString>, option: &str) -> bool {
    let is_option = |argument: &OsString| {
        argument.to_str().is_some_and(|text| text.split_once('=').map_or(text, |(name, _)| name) == option)
    };
    let Some(start) = arguments.iter().rposition(is_option) else { return false };
    let is_flag = |argument: &OsString| {
        argument.to_str().is_some_and(|text| text.starts_with('-') && text.parse::<f64>().is_err())
    };
    let values = arguments[start + 1..].iter().take_while(|argument| !is_flag(argument)).count();
    arguments.drain(start..=start + values);
    true
}

/// The option of an error, without the names of its values.
fn invalid_option(error: &clap::Error) -> String {
    let text = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    without_values(&text).to_string()
}

/// The option of a usage such as `--fast-dev-run [<N>]`.
fn without_values(usage: &str) -> &str {
    usage.trim_start_matches('[').split([' ', '[', '=', ']']).next().unwrap_or_default()
}

/// Help about an argument that is probably a part of a value with spaces.
fn quoting_hint(argument: &str, arguments: &[OsString], root: &Command) -> Option<String> {
    let (_, _, rest) = subcommand(arguments, root);
    let words: Vec<&str> = rest.iter().map_while(|word| word.to_str()).collect();
    let end = words.iter().rposition(|word| *word == argument)?;
    let start = words[..end].iter().rposition(|word| word.starts_with("--")).map_or(0, |flag| flag + 1);
    let flag = words[..start].last().filter(|flag| ["--lr-lambda"].contains(flag));
    if let Some(flag) = flag {
        return Some(format!("quote a value with spaces: {flag} \"{}\"", words[start..=end].join(" ")));
    }
    let joined = |first: usize| words[first..=end].join(" ");
    let existing = (start..end).map(joined).find(|path| std::path::Path::new(path).exists());
    let path = existing.or_else(|| (start < end).then(|| joined(end - 1)))?;
    Some(format!("quote a path with spaces: \"{path}\""))
}

/// The error about the value of a key in a configuration file.
pub fn invalid_setting(error: &clap::Error, name: &str, key: &str, location: &str) -> Error {
    let usage = error_parts(error, name);
    let invalid = Error::usage(format!("invalid value of {key}")).at(location).because(match usage.value {
        Some(value) => format!("{value:?} {}", usage.why),
        None => usage.why,
    });
    match usage.remedy {
        Some(remedy) => invalid.remedy(remedy),
        None => invalid,
    }
}

/// An error of the parser about the arguments of the process.
pub fn error(error: &clap::Error, arguments: &[OsString], root: &Command) -> Error {
    let command = innermost(arguments, root);
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let option = invalid_option(error);
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let name = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
            let error = Error::usage(format!("unknown command {name:?}"));
            let error = error.because(format!("the commands are {}", names.join(", ")));
            match nearest(&name, names) {
                Some(near) => error.remedy(format!("did you mean {near:?}?")),
                None => error.remedy("`fornax --help` describes them"),
            }
        }
        ErrorKind::UnknownArgument => {
            let error = Error::usage(format!("unexpected argument {option:?}"));
            match option.starts_with('-') {
                true => error.remedy("`--help` lists the options"),
                false => error.because("every value belongs to an option or is listed in the usage").remedy(
                    quoting_hint(&option, arguments, root).unwrap_or("`--help` shows the usage".into()),
                ),
            }
        }
        ErrorKind::ArgumentConflict => {
            let other = text(ContextKind::PriorArg).unwrap_or_default();
            let other = without_values(&other);
            Error::usage(format!("{option} and {other} exclude each other")).remedy("use one of the two")
        }
        ErrorKind::MissingRequiredArgument => {
            Error::usage(format!("{} is missing", text(ContextKind::InvalidArg).unwrap_or_default()))
                .remedy("pass it; `--help` shows the usage")
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Error::usage("the subcommand is missing").remedy("`--help` lists the subcommands")
        }
        ErrorKind::InvalidUtf8 => Error::usage("an argument is not UTF-8")
            .because("settings are written to args.yaml, which is UTF-8")
            .remedy("rename the file or folder, or refer to it by a link"),
        _ => {
            let name = option.trim_start_matches('-').replace('-', "_");
            let mut usage = error_parts(error, &name);
            if usage.why.starts_with("a value is missing") && usage.remedy.is_none() {
                let named = command.get_arguments().find(|arg| arg.get_id() == name.as_str());
                usage.remedy = named.and_then(Arg::get_value_names).map(|values| {
                    let values: Vec<&str> = values.iter().map(|value| value.as_str()).collect();
                    format!("pass it: {option} {}", values.join(" "))
                });
            }
            let what = match usage.value {
                Some(value) => format!("invalid value '{value}' of {option}"),
                None => format!("invalid value of {option}"),
            };
            let invalid = Error::usage(what).because(usage.why);
            match usage.remedy {
                Some(remedy) => invalid.remedy(remedy),
                None => invalid,
            }
        }
    }
}

/// An invalid value.
struct InvalidValue {
    value: Option<String>,
    why: String,
    remedy: Option<String>,
}

fn error_parts(error: &clap::Error, name: &str) -> InvalidValue {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let number = |kind| text(kind).unwrap_or_default();
    let value = text(ContextKind::InvalidValue).filter(|value| !value.is_empty());
    let number_given = value.as_deref().and_then(|value| value.parse::<f64>().ok());
    let range = DEFINITIONS.iter().find(|definition| definition.name == name).and_then(|found| found.range);
    let mut remedy = range.zip(number_given).and_then(|(range, value)| range.hint(value));
    let is_negative = number_given.is_some_and(|number| number < 0.0 && number.fract() == 0.0);
    let why = match error.kind() {
        ErrorKind::InvalidValue => {
            let names = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(names)) => names.clone(),
                _ => vec![],
            };
            let near = nearest(value.as_deref().unwrap_or(""), names.iter().map(String::as_str));
            remedy = near.map(|near| format!("did you mean {near:?}?"));
            match (value.is_none(), names.is_empty()) {
                (true, true) => "a value is missing".into(),
                (true, false) => format!("a value is missing: {}", names.join(", ")),
                (false, _) => format!("must be one of {}", names.join(", ")),
            }
        }
        ErrorKind::WrongNumberOfValues => {
            counts(&number(ContextKind::ExpectedNumValues), &number(ContextKind::ActualNumValues))
        }
        ErrorKind::TooFewValues => counts(
            &format!("at least {}", number(ContextKind::MinValues)),
            &number(ContextKind::ActualNumValues),
        ),
        ErrorKind::TooManyValues => "there are too many values".into(),
        ErrorKind::NoEquals => "a value follows after `=`, without a space".into(),
        _ => match error.source() {
            Some(source) if is_negative && source.to_string() == "invalid digit found in string" => {
                "must be 0 or more".into()
            }
            Some(source) => plain_reason(&source.to_string()),
            None => {
                let message = error.render().to_string();
                message.lines().next().unwrap_or_default().trim_start_matches("error: ").into()
            }
        },
    };
    InvalidValue { value: value.map(|value| shortened(&value)), why: shortened(&why), remedy }
}

/// A text without its middle, if it is too long for a message.
fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 1000;
    let count = text.chars().count();
    if count <= MAX_CHARS {
        return text.into();
    }
    let (first, last): (String, String) =
        (text.chars().take(40).collect(), text.chars().skip(count - 10).collect());
    format!("{first}…{last} ({count} characters)")
}

fn counts(expected: &str, actual: &str) -> String {
    format!("{expected} values are required, not {actual}")
}

/// The reason of a value parser; those of clap and of the standard library in plain words.
fn plain_reason(reason: &str) -> String {
    if let Some((value, range)) = reason.split_once(" is not in ")
        && let Some((low, high)) = range.split_once("..")
    {
        let high = high.trim_start_matches('=');
        let is_type_limit =
            [u16::MAX.into(), u32::MAX.into(), u64::MAX].iter().any(|max| high == max.to_string());
        return match high.is_empty() || is_type_limit {
            true if is_above(value, high) => format!("must be at most {high}"),
            true => format!("must be at least {low}"),
            false => format!("must be between {low} and {high}"),
        };
    }
    match reason {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "must be a whole number".into()
        }
        "number too large to fit in target type" => "is too large".into(),
        "invalid float literal" | "cannot parse float from empty string" => "must be a number".into(),
        reason => reason.into(),
    }
}

fn is_above(value: &str, limit: &str) -> bool {
    let numbers = (value.parse::<i128>(), limit.parse::<i128>());
    matches!(numbers, (Ok(value), Ok(limit)) if value > limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_shortened() {
        let text = shortened(&"7".repeat(1_000_000));
        assert!(text.len() < 100 && text.ends_with("(1000000 characters)"), "{text}");
        assert_eq!(shortened("0.1"), "0.1");
    }

    #[test]
    fn reasons_of_the_parser_are_plain() {
        assert_eq!(plain_reason("0 is not in 1..=4294967295"), "must be at least 1");
        assert_eq!(plain_reason("4294967296 is not in 1..=4294967295"), "must be at most 4294967295");
        assert_eq!(plain_reason("17 is not in 1..=16"), "must be between 1 and 16");
        assert_eq!(plain_reason("0 is not in 1.."), "must be at least 1");
        assert_eq!(plain_reason("invalid digit found in string"), "must be a whole number");
        assert_eq!(plain_reason("must be above 0"), "must be above 0");
    }
}
