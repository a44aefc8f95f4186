//! Check of values: impossible ones are errors, unusual ones are warnings.
use crate::settings::Settings;
use crate::{Error, Result};

/// Learning rate above which training diverges with all but a few optimizers.
const HIGH_LR: f64 = 10.0;

/// Errors on values outside of their ranges, all of them at once.
pub(super) fn check(given: &Settings) -> Result<()> {
    let flag = |name: &str| format!("--{}", name.replace('_', "-"));
    match &given.out_of_range()[..] {
        [] => Ok(()),
        [one] => {
            let error = Error::usage(format!("invalid value '{}' of {}", one.value, flag(one.name)))
                .because(format!("must be {}", one.range.text()));
            Err(match one.range.hint(one.value) {
                Some(hint) => error.remedy(hint),
                None => error,
            })
        }
        several => {
            let lines = several.iter().map(|found| {
                let hint = found.range.hint(found.value).map_or(String::new(), |hint| format!("; {hint}"));
                format!("{} {}: must be {}{hint}", flag(found.name), found.value, found.range.text())
            });
            Err(Error::usage(format!("{} invalid values", several.len()))
                .because(lines.collect::<Vec<_>>().join("\n")))
        }
    }
}

/// Warnings about values that are possible but far from the usual ones.
pub(super) fn unusual(given: &Settings) -> Vec<String> {
    let mut warnings = vec![];
    if let Some(std) = given.std.iter().flatten().find(|std| **std > 1.0) {
        warnings.push(format!(
            "warning: --std {std} is unusual: pixel values are scaled to 0..1, where it would be {}",
            (std / 255.0 * 1e4).round() / 1e4
        ));
    }
    if let Some(crop_pct) = given.crop_pct.filter(|crop_pct| *crop_pct > 1.0) {
        warnings.push(format!(
            "warning: --crop-pct {crop_pct} is unusual: the crop is larger than the resized image, which is padded"
        ));
    }
    for (flag, lr) in [("--lr", given.lr), ("--lr-base", given.lr_base), ("--warmup-lr", given.warmup_lr)] {
        if let Some(lr) = lr.filter(|lr| *lr > HIGH_LR) {
            warnings
                .push(format!("warning: {flag} {lr} is unusual: most optimizers diverge above {HIGH_LR}"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::settings::Settings;

    #[test]
    fn impossible_values_of_a_library_or_checkpoint_are_rejected_together() {
        let given = Settings {
            crop_pct: Some(95.0),
            mean: Some(vec![123.675, 116.28, 103.53]),
            color_jitter: Some(vec![5.0]),
            lr: Some(1e10),
            hflip: Some(f64::NAN),
            ..Settings::default()
        };
        let error = Config::resolve(&given).expect_err("impossible").to_string();
        for part in [
            "7 invalid values",
            "--crop-pct 95: must be above 0 and at most 1.5; it is a fraction: 0.95",
            "--mean 123.67500305175781: must be between 0 and 1; pixel values are scaled to 0..1: 0.485",
            "--color-jitter 5: must be between 0 and 2",
            "--lr 10000000000: must be between 0 and 1000",
            "--hflip NaN",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let given = Settings { crop_pct: Some(95.0), ..Settings::default() };
        let error = Config::resolve(&given).expect_err("impossible").to_string();
        assert!(error.starts_with("invalid value '95' of --crop-pct\n"), "{error}");
    }

    #[test]
    fn unusual_values_are_warned_about() {
        let given =
            Settings { std: Some(vec![58.395]), crop_pct: Some(1.1), lr: Some(20.0), ..Settings::default() };
        let warnings = Config::resolve(&given).expect("possible").warnings;
        for (warning, part) in warnings.iter().zip(["would be 0.229", "--crop-pct 1.1", "--lr 20"]) {
            assert!(warning.contains(part), "{warning}");
        }
        assert_eq!(warnings.len(), 3);
        assert!(Config::resolve(&Settings::default()).expect("valid").warnings.is_empty());
    }
}
