//! Definition of a setting: name, type, default, requirements and help, in one place.
use super::requirement::{Requirement, SettingsContext};
use crate::schedule::Sched;
use serde_json::Value;

/// Definition of a setting, beside its type and help in [`Settings`](super::Settings).
#[derive(Debug)]
pub struct SettingDefinition {
    /// Name, with underscores.
    pub name: &'static str,
    /// Heading of the help.
    pub heading: &'static str,
    /// Default value, or its description.
    pub default: Option<&'static str>,
    /// Defaults of timm, of today's script or of older ones, where they differ.
    pub timm_defaults: &'static [&'static str],
    /// The short help shows the setting.
    pub in_short_help: bool,
    /// Schedules that use the setting; `None` if it does not depend on the schedule.
    pub(super) scheds: Option<&'static [Sched]>,
    /// Conditions under which the setting has an effect.
    pub(super) needs: &'static [Requirement],
}

impl SettingDefinition {
    /// Reason and remedy if the setting has no effect.
    pub fn without_effect(&self, context: &SettingsContext) -> Option<(String, String)> {
        if let Some(unmet) = self.needs.iter().find(|requirement| !(requirement.holds)(context)) {
            return Some((unmet.why.into(), unmet.remedy.into()));
        }
        let users = self.scheds.filter(|scheds| !scheds.contains(&context.sched))?;
        let users: Vec<String> = users.iter().map(|sched| sched.name()).collect();
        Some((
            format!("the schedule {} does not use it", context.sched.name()),
            format!("omit it, or choose another --sched: {}", users.join(", ")),
        ))
    }

    /// True if a value is the default, of Fornax or of timm, or a switch that is off.
    pub fn is_default(&self, value: &Value) -> bool {
        *value == false
            || self.is_own_default(value)
            || self.timm_defaults.iter().any(|text| equals(value, text))
    }

    /// True if a value is Fornax's default.
    pub fn is_own_default(&self, value: &Value) -> bool {
        self.default.is_some_and(|text| equals(value, text))
    }
}

/// True if a value is written as `text`: the words of a list, a number, or a name.
pub(super) fn equals(value: &Value, text: &str) -> bool {
    match value {
        Value::Array(values) => {
            let words: Vec<&str> = text.split_whitespace().collect();
            words.len() == values.len() && values.iter().zip(words).all(|(value, word)| equals(value, word))
        }
        Value::Number(number) => text.parse().is_ok_and(|parsed: f64| number.as_f64() == Some(parsed)),
        Value::Bool(flag) => text == flag.to_string(),
        Value::String(name) => text == name,
        _ => false,
    }
}

/// Defines `Settings` and `DEFINITIONS` from a list of settings by heading:
///
/// ```text
/// "Heading" {
///     /// Help
///     #[arg(…)]                       arguments of clap besides `long` and the heading
///     #[serde(…)]
///     name: Type = "default" | "another default of timm", sched [Cosine Poly], needs CLIP_GRAD, in short help;
/// }
/// ```
///
/// The help shows the default. `sched` lists the schedules that use the setting, `needs` names a requirement, `in short help` puts it into
/// the short help.
macro_rules! settings {
    ($($heading:literal { $(
        #[doc = $help:literal]
        $(#[arg($($arg:tt)*)])?
        $(#[serde($($serde:tt)*)])?
        $name:ident: $type:ty $(= $default:literal)? $(| $timm:literal)* $(, sched [$($sched:ident)*])? $(, needs $need:ident)*
            $(, in $short:ident help)?;
    )* })*) => {
        /// User settings of a run's dataset, model and training; `None` where nothing is given.
        #[derive(clap::Args, Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Settings { $($(
            #[doc = $help]
            $(#[serde($($serde)*)])?
            #[arg(long, help_heading = $heading $(, $($arg)*)?)]
            pub $name: Option<$type>,
        )*)* }

        /// Definition of each setting, in the order of the help.
        pub const DEFINITIONS: &[SettingDefinition] = &[$($(SettingDefinition {
            name: stringify!($name),
            heading: $heading,
            default: settings!(@option $($default)?),
            timm_defaults: &[$($timm),*],
            in_short_help: settings!(@is_short $($short)?),
            scheds: settings!(@option $(&[$(Sched::$sched),*])?),
            needs: &[$($need),*],
        }),*),*];
    };
    (@option) => { None };
    (@option $value:expr) => { Some($value) };
    (@is_short) => { false };
    (@is_short short) => { true };
}
pub(super) use settings;
