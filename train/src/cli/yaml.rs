//! Settings in YAML files: a mapping of flags to values, checked by the same parser as the command line.
use crate::nearest::nearest;
use crate::settings::Settings;
use crate::{Error, Result};
use clap::{Args, FromArgMatches};
use serde_json::Value;
use serde_saphyr::Spanned;
use std::collections::BTreeMap;
use std::path::Path;

/// Reads a file.
pub fn read(path: &Path) -> Result<Settings> {
    let fail = |why: String| Error::usage("the configuration file cannot be read").at_path(path).because(why);
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    parse(&text, &path.display().to_string())
}

fn parse(text: &str, name: &str) -> Result<Settings> {
    let map: Option<BTreeMap<String, Spanned<Value>>> = serde_saphyr::from_str(text)
        .map_err(|e| Error::usage("the configuration file is not a YAML mapping").at(name).because(e))?;
    let command = Settings::augment_args(clap::Command::new("settings").no_binary_name(true));
    let parse = |arguments: &[String]| {
        let matches = command.clone().try_get_matches_from(arguments);
        matches.and_then(|matches| Settings::from_arg_matches(&matches))
    };
    let mut all = vec![];
    for (key, Spanned { value, referenced, .. }) in map.unwrap_or_default() {
        let place = format!("{name}, line {}", referenced.line());
        let flag = key.replace('_', "-");
        let flags = || command.get_arguments().filter_map(|arg| arg.get_long());
        if !flags().any(|known| known == flag) {
            let error = Error::usage(format!("there is no setting {key:?}")).at(place);
            return Err(match nearest(&flag, flags()) {
                Some(near) => error.remedy(format!("did you mean {:?}?", near.replace('-', "_"))),
                None => error.remedy("`fornax train --help` lists them"),
            });
        }
        let arguments = arguments(&flag, &value);
        // By itself first, so that a mistake can be told with its line.
        parse(&arguments).map_err(|e| {
            let message = e.render().to_string();
            let first = message.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
            Error::usage(format!("{key} has a wrong value")).at(&place).because(first)
        })?;
        all.extend(arguments);
    }
    parse(&all).map_err(|e| Error::usage("the settings cannot be read").at(name).because(e))
}

/// The setting as it would stand on a command line; nothing for `null`.
fn arguments(flag: &str, value: &Value) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match value {
        Value::Null => vec![],
        Value::Array(values) => std::iter::once(format!("--{flag}")).chain(values.iter().map(text)).collect(),
        value => vec![format!("--{flag}={}", text(value))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Sched;

    #[test]
    fn values_of_every_kind_are_read() {
        let text = "epochs: 3\nopt: adamw\nlr: 1e-3\nopt_betas: [0.8, 0.9]\nsched-on-updates: false\ndata_dir: null\n\
                    sched: 'constant'\n";
        let expected = Settings {
            epochs: Some(3),
            opt: Some("adamw".parse().expect("a name")),
            lr: Some(1e-3),
            opt_betas: Some(vec![0.8, 0.9]),
            sched_on_updates: Some(false),
            sched: Some(Sched::Constant),
            ..Settings::default()
        };
        assert_eq!(parse(text, "a.yaml").expect("valid"), expected);
        assert_eq!(parse("# nothing\n", "a.yaml").expect("valid"), Settings::default());
    }

    #[test]
    fn mistakes_name_their_line() {
        let cases = [
            ("epochs: 3\nepoch: 4\n", "line 2", "did you mean \"epochs\"?"),
            ("\nepochs: many\n", "line 2", "invalid value 'many'"),
            ("epochs: [1, 2]\n", "line 1", "wrong value"),
            ("opt_betas: [0.9]\n", "line 1", "2 values required"),
            ("- a\n- b\n", "a.yaml", "not a YAML mapping"),
            ("epochs: 1\nepochs: 2\n", "a.yaml", "not a YAML mapping"),
            ("a: &a [*a]\n", "a.yaml", ""),
        ];
        for (text, place, what) in cases {
            let error = parse(text, "a.yaml").expect_err(text);
            assert_eq!(error.kind(), crate::error::Kind::Usage);
            let message = error.to_string();
            assert!(message.contains(place) && message.contains(what), "{text:?}: {message}");
        }
    }
}
