//! Settings without effect: ignored with a warning, unless they contradict another setting.
use crate::settings::{Settings, SettingsContext, definition};
use crate::{Error, Result};

/// Option that has no effect on a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredOption {
    /// Name, with underscores.
    pub name: String,
    /// Reason.
    pub why: String,
}

impl IgnoredOption {
    /// Creates an entry.
    pub fn new(name: impl Into<String>, why: impl Into<String>) -> IgnoredOption {
        IgnoredOption { name: name.into(), why: why.into() }
    }
}

/// A warning of one line about options without effect, grouped by their reasons; `None` if there are none.
pub fn ignored_warning<'a>(options: impl IntoIterator<Item = &'a IgnoredOption>) -> Option<String> {
    let mut reasons: Vec<(&str, Vec<String>)> = vec![];
    for IgnoredOption { name, why } in options {
        let flag = format!("--{}", name.replace('_', "-"));
        match reasons.iter_mut().find(|(reason, _)| reason == why) {
            Some((_, flags)) if flags.contains(&flag) => {}
            Some((_, flags)) => flags.push(flag),
            None => reasons.push((why, vec![flag])),
        }
    }
    let groups: Vec<String> =
        reasons.iter().map(|(why, flags)| format!("{} ({why})", flags.join(", "))).collect();
    (!groups.is_empty()).then(|| format!("warning: without effect, and ignored: {}", groups.join("; ")))
}

/// The settings that have an effect, and the others that are not at their defaults. Errors on the first contradiction.
pub(super) fn without_ignored(context: &SettingsContext) -> Result<(Settings, Vec<IgnoredOption>)> {
    let mut ignored = vec![];
    for (name, value) in context.given.given() {
        let definition = definition(&name);
        let Some(why) = definition.without_effect(context) else { continue };
        if definition.is_default(&value) {
            continue;
        }
        if let Some(unmet) = definition.unmet(context).filter(|unmet| unmet.is_contradiction) {
            let flag = name.replace('_', "-");
            return Err(Error::usage(format!("--{flag} would have no effect"))
                .because(unmet.why)
                .remedy(unmet.remedy));
        }
        ignored.push(IgnoredOption { name, why });
    }
    Ok((effective(context), ignored))
}

/// The settings that have an effect.
pub(super) fn effective(context: &SettingsContext) -> Settings {
    context.given.filtered(|name| definition(name).without_effect(context).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_with_one_reason_are_grouped() {
        let options = [("hflip", "a"), ("sync_bn", "b"), ("vflip", "a"), ("hflip", "a")];
        let options: Vec<IgnoredOption> = options.map(|(name, why)| IgnoredOption::new(name, why)).into();
        let expected = "warning: without effect, and ignored: --hflip, --vflip (a); --sync-bn (b)";
        assert_eq!(ignored_warning(&options).as_deref(), Some(expected));
        assert_eq!(ignored_warning(&[]), None);
    }
}
