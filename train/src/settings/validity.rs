//! Validity of settings that do not come from the command line: the checks of the command line hold for them too.
use super::Settings;
use clap::{Args, Command};
use serde_json::Value;
use std::sync::LazyLock;

impl Settings {
    /// Checks every value as the command line does: its range, the number of values of a list, the form of a text. The error names the
    /// option.
    pub fn check_values(&self) -> Result<(), String> {
        static COMMAND: LazyLock<Command> = LazyLock::new(|| {
            let command = Settings::augment_args(Command::new("settings").no_binary_name(true));
            command.mut_args(|arg| {
                if arg.get_action().takes_values() { arg.allow_negative_numbers(true) } else { arg }
            })
        });
        let arguments = self.given().into_iter().flat_map(|(name, value)| arguments(&name, &value));
        match COMMAND.clone().try_get_matches_from(arguments) {
            Ok(_) => Ok(()),
            Err(error) => {
                let text = error.to_string();
                let line = text.lines().next().unwrap_or_default();
                Err(line.trim_start_matches("error: ").to_string())
            }
        }
    }
}

/// A setting as arguments; none for a flag, whose type is its only condition.
fn arguments(name: &str, value: &Value) -> Vec<String> {
    let flag = format!("--{}", name.replace('_', "-"));
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match value {
        Value::Bool(_) => vec![],
        Value::Array(values) => std::iter::once(flag).chain(values.iter().map(text)).collect(),
        value => vec![format!("{flag}={}", text(value))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_the_command_line_rejects_are_not_valid() {
        let valid = Settings {
            lr: Some(0.1),
            head_init_bias: Some(-3.0),
            mean: Some(vec![0.485, 0.5, 0.5]),
            std: Some(vec![0.2]),
            input_size: Some(vec![3, 8, 8]),
            model_ema: Some(true),
            opt_kwargs: Some(vec!["nesterov=true".into()]),
            ..Settings::default()
        };
        assert_eq!(valid.check_values(), Ok(()));
        for (invalid, part) in [
            (Settings { workers: Some(1 << 31), ..valid.clone() }, "--workers"),
            (Settings { grad_accum_steps: Some(0), ..valid.clone() }, "between 1 and 4096"),
            (Settings { input_size: Some(vec![3, 8]), ..valid.clone() }, "--input-size"),
            (Settings { mean: Some(vec![]), ..valid.clone() }, "--mean"),
            (Settings { gp: Some("sum".into()), ..valid.clone() }, "--gp"),
            (Settings { opt_kwargs: Some(vec!["nesterov".into()]), ..valid.clone() }, "--opt-kwargs"),
            (Settings { mean: Some(vec![-1.0]), ..valid.clone() }, "--mean"),
            (Settings { lr: Some(2000.0), ..valid }, "--lr"),
        ] {
            let why = invalid.check_values().expect_err(part);
            assert!(why.contains(part), "{part}: {why}");
        }
    }
}
