//! Settings in YAML files: a mapping from flags to values, checked by the command line's parser.
use crate::error::ErrorKind;
use crate::nearest::nearest;
use crate::settings::Settings;
use crate::{Error, Result};
use clap::{Args, FromArgMatches};
use serde_json::Value;
use serde_saphyr::Spanned;
use std::collections::BTreeMap;
use std::path::Path;

/// Reads settings from a YAML file. Errors name the line.
pub fn read(path: &Path) -> Result<Settings> {
    let what = "the configuration file cannot be read";
    let text =
        std::fs::read_to_string(path).map_err(|e| Error::unreadable(ErrorKind::Usage, what, path, &e))?;
    parse(&text, &path.display().to_string())
}

fn parse(text: &str, name: &str) -> Result<Settings> {
    let map: Option<BTreeMap<String, Spanned<Value>>> =
        serde_saphyr::from_str(text).map_err(|e| not_a_mapping(name, &e))?;
    let command = Settings::augment_args(clap::Command::new("settings").no_binary_name(true));
    let parse = |arguments: &[String]| {
        let matches = command.clone().try_get_matches_from(arguments);
        matches.and_then(|matches| Settings::from_arg_matches(&matches))
    };
    let mut all = vec![];
    for (key, Spanned { value, referenced, .. }) in map.unwrap_or_default() {
        let location = format!("{name}, line {}", referenced.line());
        let flag = key.replace('_', "-");
        let flags = || command.get_arguments().filter_map(|arg| arg.get_long());
        if !flags().any(|known| known == flag) {
            let error = Error::usage(format!("unknown setting {key:?}")).at(location);
            return Err(match nearest(&flag, flags()) {
                Some(near) => error.remedy(format!("did you mean {:?}?", near.replace('-', "_"))),
                None => error.remedy("`fornax train --help` lists them"),
            });
        }
        let arguments = arguments(&flag, &value);
        // Parse each setting alone first, so that an error can name its line.
        parse(&arguments).map_err(|e| {
            let message = e.render().to_string();
            let first = message.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
            Error::usage(format!("invalid value of {key}")).at(&location).because(first)
        })?;
        all.extend(arguments);
    }
    parse(&all).map_err(|e| Error::usage("the settings cannot be read").at(name).because(e))
}

fn not_a_mapping(name: &str, error: &serde_saphyr::Error) -> Error {
    if let serde_saphyr::Error::DuplicateMappingKey { key, location } = error.without_snippet() {
        let key = key.as_deref().unwrap_or("a key");
        return Error::usage(format!("key `{key}` appears twice (line {})", location.line()))
            .at(name)
            .remedy("remove one of the two");
    }
    Error::usage("the configuration file is not a YAML mapping")
        .at(name)
        .because(error.to_string().trim_start_matches("error: "))
}

/// The setting as command-line arguments; none for `null`.
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
    fn values_of_every_type_are_parsed() {
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
    fn errors_name_their_line() {
        let cases = [
            ("epochs: 3\nepoch: 4\n", "line 2", "did you mean \"epochs\"?"),
            ("\nepochs: many\n", "line 2", "invalid value 'many'"),
            ("epochs: [1, 2]\n", "line 1", "invalid value of epochs"),
            ("opt_betas: [0.9]\n", "line 1", "2 values required"),
            ("- a\n- b\n", "a.yaml", "not a YAML mapping"),
            ("epochs: 1\nepochs: 2\n", "a.yaml", "key `epochs` appears twice (line 2)"),
            ("a: &a [*a]\n", "a.yaml", ""),
        ];
        for (text, location, what) in cases {
            let error = parse(text, "a.yaml").expect_err(text);
            assert_eq!(error.kind(), crate::error::ErrorKind::Usage);
            let message = error.to_string();
            assert!(message.contains(location) && message.contains(what), "{text:?}: {message}");
        }
    }
}
