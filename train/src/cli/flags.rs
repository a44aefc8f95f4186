//! Alternative spellings of flags: `--batch_size` for `--batch-size`, `--no-json` for `--json=false`, timm's `-vb`.
use clap::Command;
use std::any::TypeId;
use std::ffi::OsString;

/// Rewrites every flag to its declared spelling.
pub fn normalise(arguments: impl IntoIterator<Item = OsString>, command: &Command) -> Vec<OsString> {
    let mut switches = vec![];
    collect_switches(command, &mut switches);
    let mut verbatim = false;
    let mut spell = |argument: OsString| {
        verbatim |= argument == "--";
        match argument.to_str() {
            Some(text) if !verbatim => normalised(text, &switches).map_or(argument, OsString::from),
            _ => argument,
        }
    };
    arguments.into_iter().map(&mut spell).collect()
}

/// Removes the options of a command that have an empty value, which stands for "not given" in timm's command lines. An empty validation split
/// has a meaning.
pub fn without_empty(arguments: Vec<OsString>, command: &Command) -> Vec<OsString> {
    let takes_value = |name: &str| {
        let named = command.get_arguments().find(|arg| {
            arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
        });
        named.is_some_and(|arg| {
            let optional = arg.get_num_args().is_some_and(|count| count.min_values() == 0);
            arg.get_action().takes_values() && !optional && name != "val-split"
        })
    };
    let mut kept = vec![];
    let mut rest = arguments.into_iter().peekable();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            kept.push(argument);
            kept.extend(rest);
            return kept;
        }
        let flag = argument.to_str().and_then(|text| text.strip_prefix("--")).unwrap_or_default();
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        let is_empty = value.map_or(rest.peek().is_some_and(|next| next.is_empty()), str::is_empty);
        match is_empty && takes_value(name) {
            true if value.is_none() => drop(rest.next()),
            true => {}
            false => kept.push(argument),
        }
    }
    kept
}

/// Names of the boolean flags of a command and its subcommands.
fn collect_switches<'a>(command: &'a Command, names: &mut Vec<&'a str>) {
    let is_switch = |arg: &&clap::Arg| arg.get_value_parser().type_id() == TypeId::of::<bool>();
    names.extend(command.get_arguments().filter(is_switch).filter_map(|arg| arg.get_long()));
    command.get_subcommands().for_each(|subcommand| collect_switches(subcommand, names));
}

fn normalised(argument: &str, switches: &[&str]) -> Option<String> {
    if let Some(rest) = argument.strip_prefix("-vb") {
        return Some(format!("--validation-batch-size{rest}"));
    }
    let flag = argument.strip_prefix("--")?;
    let (name, value) = match flag.split_once('=') {
        Some((name, value)) => (name, format!("={value}")),
        None => (flag, String::new()),
    };
    let name = name.replace('_', "-");
    match name.strip_prefix("no-") {
        Some(switch) if value.is_empty() && switches.contains(&switch) => Some(format!("--{switch}=false")),
        _ => Some(format!("--{name}{value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(arguments: &[&str]) -> Vec<String> {
        let arguments = arguments.iter().map(OsString::from);
        let all = normalise(arguments, &super::super::command(true));
        all.into_iter().map(|a| a.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn flags_are_normalised_and_values_are_not() {
        assert_eq!(
            normalised(&[
                "fornax",
                "train",
                "--batch_size",
                "a_b",
                "--data_dir=x_y",
                "-vb",
                "9",
                "--no-json"
            ]),
            [
                "fornax",
                "train",
                "--batch-size",
                "a_b",
                "--data-dir=x_y",
                "--validation-batch-size",
                "9",
                "--json=false"
            ]
        );
    }

    #[test]
    fn options_with_empty_values_are_not_given() {
        let root = super::super::command(true);
        let train = root.find_subcommand("train").expect("it is a subcommand");
        let given =
            ["train", "--resume", "", "--class-map=", "--val-split", "", "--lr", "0.1", "--", "--resume", ""];
        let kept = without_empty(given.iter().map(OsString::from).collect(), train);
        assert_eq!(kept, ["train", "--val-split", "", "--lr", "0.1", "--", "--resume", ""]);
    }

    #[test]
    fn only_boolean_flags_are_negated_and_double_dash_ends_flags() {
        assert_eq!(normalised(&["--no-epochs", "--no-json=true"]), ["--no-epochs", "--no-json=true"]);
        assert_eq!(normalised(&["--", "--a_b"]), ["--", "--a_b"]);
    }
}
