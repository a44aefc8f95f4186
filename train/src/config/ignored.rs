//! Settings without effect: ignored at their defaults, else rejected.
use crate::settings::{Settings, SettingsContext, definition};
use crate::{Error, Result};

/// The settings that have an effect, and the names of the others, which are at their defaults. Errors on the first setting without effect
/// that is not at its default.
pub(super) fn without_ignored(context: &SettingsContext) -> Result<(Settings, Vec<String>)> {
    let mut ignored = vec![];
    for (name, value) in context.given.given() {
        let definition = definition(&name);
        let Some((why, remedy)) = definition.without_effect(context) else { continue };
        if !definition.is_default(&value) {
            let flag = name.replace('_', "-");
            return Err(Error::usage(format!("--{flag} would have no effect")).because(why).remedy(remedy));
        }
        ignored.push(name);
    }
    Ok((context.given.filtered(|name| !ignored.iter().any(|other| other == name)), ignored))
}

/// The settings that have an effect.
pub(super) fn effective(context: &SettingsContext) -> Settings {
    context.given.filtered(|name| definition(name).without_effect(context).is_none())
}
