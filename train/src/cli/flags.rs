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
    fn only_boolean_flags_are_negated_and_double_dash_ends_flags() {
        assert_eq!(normalised(&["--no-epochs", "--no-json=true"]), ["--no-epochs", "--no-json=true"]);
        assert_eq!(normalised(&["--", "--a_b"]), ["--", "--a_b"]);
    }
}
