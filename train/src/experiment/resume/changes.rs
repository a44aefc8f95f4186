//! Options of a resumed run that differ from its checkpoint's.
use crate::checkpoint::{CheckpointHeader, with_absolute_paths};
use crate::config::Config;
use crate::settings::{DEFINITIONS, OnResume, SettingDefinition, Settings};
use crate::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Option of a resumed run whose value differs from the checkpoint's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OptionChange {
    /// The option, such as `--gp`.
    pub option: String,
    /// Value in the checkpoint.
    pub from: String,
    /// Value in the resumed run.
    pub to: String,
    #[serde(skip)]
    on_resume: OnResume,
}

impl OptionChange {
    /// A change that is accepted; `None` if the values are equal.
    pub fn accepted(option: &str, from: impl ToString, to: impl ToString) -> Option<OptionChange> {
        let (option, from, to) = (option.into(), from.to_string(), to.to_string());
        (from != to).then_some(OptionChange { option, from, to, on_resume: OnResume::Accepted })
    }

    /// True if the order of the samples or the number of updates of an epoch changes.
    pub fn is_of_epoch(&self) -> bool {
        matches!(self.on_resume, OnResume::AtEpochStart(_))
    }

    /// Errors if the option cannot change, or not within an epoch and `epoch` is in progress.
    fn check(&self, epoch: Option<u32>) -> Result<()> {
        let OptionChange { option, from, to, .. } = self;
        let changed = format!("the checkpoint was made with {from}, now it is {to}");
        match (self.on_resume, epoch) {
            (OnResume::Rejected(why), _) => {
                Err(Error::usage(format!("{option} cannot change within a run"))
                    .because(format!("{changed}; {why}"))
                    .remedy(format!("omit {option}, or start a new run without --resume")))
            }
            (OnResume::AtEpochStart(why), Some(epoch)) => {
                Err(Error::usage(format!("{option} cannot change within an epoch"))
                    .because(format!("{changed}; {why}"))
                    .remedy(format!(
                        "omit {option} until epoch {epoch} has ended, or start this epoch again with --start-epoch {epoch}"
                    )))
            }
            _ => Ok(()),
        }
    }
}

/// The options that differ from the checkpoint's, by their resolved values, in the order of the help. Errors on the first that cannot
/// change; `epoch` is the epoch in progress.
pub fn changes(config: &Config, header: &CheckpointHeader, epoch: Option<u32>) -> Result<Vec<OptionChange>> {
    let both = [&header.settings, &config.settings];
    let is_square = both.iter().all(|settings| is_square(settings));
    let [then, now] = both.map(|settings| comparable(settings, is_square));
    let then_batch = header.settings.batch_size.unwrap_or_default() as usize * header.world_size;
    let mut changes: Vec<OptionChange> =
        OptionChange::accepted("ranks", header.world_size, config.world_size).into_iter().collect();
    for definition in DEFINITIONS {
        let name = definition.name;
        let value =
            |all: &Map<String, Value>| all.get(name).filter(|value| !definition.is_unset(value)).cloned();
        let (from, to) = (value(&then), value(&now));
        // The batches of all ranks together.
        let is_same = match name {
            "batch_size" => config.global_batch_size() == then_batch,
            _ => from == to,
        };
        if is_same {
            continue;
        }
        let on_resume = match name {
            // Without the optimizer's state, another optimizer may continue.
            "opt" if config.no_resume_opt => OnResume::Accepted,
            // Each split has batch norm layers.
            "aug_splits" if config.settings.split_bn == Some(true) => architecture(),
            _ => definition.on_resume,
        };
        let is_flag = from.as_ref().or(to.as_ref()).is_some_and(Value::is_boolean);
        let [from, to] = [from, to].map(|value| text(definition, value.as_ref(), is_flag));
        let option = format!("--{}", name.replace('_', "-"));
        changes.push(OptionChange { option, from, to, on_resume });
    }
    // An option that can never change is reported before one that must wait.
    changes.iter().try_for_each(|change| change.check(None))?;
    changes.iter().try_for_each(|change| change.check(epoch))?;
    Ok(changes)
}

/// Note that lists changes; `None` if there are none.
pub fn note(changes: &[OptionChange]) -> Option<String> {
    let each: Vec<String> = changes
        .iter()
        .map(|OptionChange { option, from, to, .. }| format!("{option} {from} → {to}"))
        .collect();
    (!each.is_empty()).then(|| format!("note: changed since the checkpoint: {}", each.join(", ")))
}

fn architecture() -> OnResume {
    crate::settings::definition("model").on_resume
}

/// True if the sides of the images are equal.
fn is_square(settings: &Settings) -> bool {
    !matches!(settings.input_size.as_deref(), Some([_, height, width]) if height != width)
}

/// Settings as they are compared: with absolute paths, and with channels of the images and, of square ones, their side instead of the input
/// size.
fn comparable(settings: &Settings, is_square: bool) -> Map<String, Value> {
    let mut all = with_absolute_paths(settings).given();
    if let Some([channels, height, _]) = settings.input_size.as_deref() {
        all.insert("in_chans".into(), json!(channels));
        if is_square {
            all.insert("img_size".into(), json!(height));
            all.remove("input_size");
        }
    }
    all
}

/// A value as it is written on the command line, or the default.
fn text(definition: &SettingDefinition, value: Option<&Value>, is_flag: bool) -> String {
    match value {
        None if is_flag && definition.default.is_none() => "false".into(),
        None => definition.default.filter(|text| !text.contains([' ', ';'])).unwrap_or("default").into(),
        Some(Value::Array(values)) => values.iter().map(scalar).collect::<Vec<_>>().join(" "),
        Some(value) => scalar(value),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        // Numbers of f32 have more digits as f64.
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(wide) if wide != 0.0 && wide.abs() < 1e-3 => format!("{wide:e}"),
            Some(wide) if f64::from(wide as f32) == wide => (wide as f32).to_string(),
            Some(wide) => wide.to_string(),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::definition;

    #[test]
    fn values_are_written_as_on_the_command_line() {
        let of = |name: &str, value: Option<Value>| text(definition(name), value.as_ref(), false);
        assert_eq!(of("mean", Some(json!([0.485f32, 0.5]))), "0.485 0.5");
        assert_eq!(of("lr", Some(json!(0.05))), "0.05");
        assert_eq!(of("opt_eps", Some(json!(1e-8))), "1e-8");
        assert_eq!(of("weight_decay", Some(json!(2.0))), "2");
        assert_eq!(of("opt", Some(json!("adamw"))), "adamw");
        assert_eq!(of("aug_repeats", None), "0");
        assert_eq!(of("gp", None), "default");
        assert_eq!(of("model_ema", Some(json!(true))), "true");
        assert_eq!(text(definition("model_ema"), None, true), "false");
        assert_eq!(text(definition("deterministic"), None, true), "true");
        assert_eq!(text(definition("cudnn_benchmark"), None, true), "default");
    }

    #[test]
    fn input_size_is_compared_by_its_parts_if_it_is_square() {
        let settings = Settings { input_size: Some(vec![1, 8, 8]), ..Settings::default() };
        assert_eq!(Value::from(comparable(&settings, true)), json!({ "in_chans": 1, "img_size": 8 }));
        let expected = json!({ "in_chans": 1, "input_size": [1, 8, 8] });
        assert_eq!(Value::from(comparable(&settings, false)), expected);
        assert!(!is_square(&Settings { input_size: Some(vec![1, 8, 9]), ..Settings::default() }));
    }
}
