//! Definition of a setting: name, type, default, requirements and help, in one place.
use super::on_resume::OnResume;
use super::range::ValueRange;
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
    /// Range of the numbers.
    pub range: Option<ValueRange>,
    /// The short help shows the setting.
    pub in_short_help: bool,
    /// Treatment of a value that differs from that in the checkpoint of a resumed run.
    pub on_resume: OnResume,
    /// Schedules that use the setting; `None` if it does not depend on the schedule.
    pub(super) scheds: Option<&'static [Sched]>,
    /// Conditions under which the setting has an effect.
    pub(super) needs: &'static [Requirement],
}

impl SettingDefinition {
    /// The first requirement that is not met.
    pub(crate) fn unmet(&self, context: &SettingsContext) -> Option<&'static Requirement> {
        self.needs.iter().find(|requirement| !(requirement.holds)(context))
    }

    /// Reason if the setting has no effect.
    pub fn without_effect(&self, context: &SettingsContext) -> Option<String> {
        if let Some(unmet) = self.unmet(context) {
            return Some(unmet.why.into());
        }
        self.scheds.filter(|scheds| !scheds.contains(&context.sched))?;
        Some(format!("the schedule {} does not use it", context.sched.name()))
    }

    /// True if a value is the default, of Fornax or of timm, or is off: false or 0.
    pub fn is_default(&self, value: &Value) -> bool {
        let is_off = *value == false || value.as_f64() == Some(0.0);
        is_off || self.is_own_default(value) || self.timm_defaults.iter().any(|text| equals(value, text))
    }

    /// True if a value means the same as none: Fornax's default, or off if no default is stated.
    pub fn is_unset(&self, value: &Value) -> bool {
        self.is_own_default(value) || (*value == false && self.default.is_none())
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
///     name: Type = "default" | "another default of timm", within RANGE, sched [Cosine Poly], needs CLIP_GRAD, on resume RANKING, in short help;
/// }
/// ```
///
/// The help shows the default and the range. `sched` lists the schedules that use the setting, `needs` names a requirement, `on resume` the treatment of
/// another value at a resume (without it, the change is accepted), `in short help` puts it into the short help.
macro_rules! settings {
    ($($heading:literal { $(
        #[doc = $help:literal]
        $(#[arg($($arg:tt)*)])?
        $(#[serde($($serde:tt)*)])?
        $name:ident: $type:ty $(= $default:literal)? $(| $timm:literal)* $(, within $range:ident)? $(, sched [$($sched:ident)*])? $(, needs $need:ident)*
            $(, on resume $on_resume:ident)? $(, in $short:ident help)?;
    )* })*) => {
        /// User settings of a run's dataset, model and training; `None` where nothing is given.
        #[derive(clap::Args, Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Settings { $($(
            #[doc = $help]
            $(#[serde($($serde)*)])?
            #[arg(
                long,
                help_heading = $heading
                $(, value_parser = $range.parser::<<$type as $crate::settings::range::Numeric>::Number>())?
                $(, $($arg)*)?
            )]
            pub $name: Option<$type>,
        )*)* }

        /// Definition of each setting, in the order of the help.
        pub const DEFINITIONS: &[SettingDefinition] = &[$($(SettingDefinition {
            name: stringify!($name),
            heading: $heading,
            default: settings!(@option $($default)?),
            timm_defaults: &[$($timm),*],
            range: settings!(@option $($range)?),
            in_short_help: settings!(@is_short $($short)?),
            on_resume: settings!(@on_resume $($on_resume)?),
            scheds: settings!(@option $(&[$(Sched::$sched),*])?),
            needs: &[$($need),*],
        }),*),*];

        impl Settings {
            /// The values outside of their ranges.
            pub fn out_of_range(&self) -> Vec<$crate::settings::OutOfRange> {
                let mut found = vec![];
                $($(settings!(@check self, found, $name $(, $range)?);)*)*
                found
            }
        }
    };
    (@check $settings:ident, $found:ident, $name:ident) => {};
    (@check $settings:ident, $found:ident, $name:ident, $range:ident) => {
        let values = $settings.$name.iter().flat_map($crate::settings::range::Numeric::numbers);
        $found.extend(values.filter(|value| !$range.contains(*value)).map(|value| {
            $crate::settings::OutOfRange { name: stringify!($name), value, range: $range }
        }));
    };
    (@option) => { None };
    (@option $value:expr) => { Some($value) };
    (@on_resume) => { OnResume::Accepted };
    (@on_resume $value:expr) => { $value };
    (@is_short) => { false };
    (@is_short short) => { true };
}
pub(super) use settings;
