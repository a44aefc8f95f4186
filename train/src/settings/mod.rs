//! Settings of a training run as given on the command line, in a YAML file or in a checkpoint. All are optional;
//! [`crate::config`] resolves them.
mod choices;
mod definition;
mod list;
mod range;
mod requirement;
mod seeds;
mod serde_text;
mod timm;
pub mod value_parsers;

pub use choices::{
    AmpDtype, ClipMode, DefaultSet, DistBn, EraseModeArg, EvalMetric, GradCompression, ImageMode, LrScale,
    ModelDtype, NonfinitePolicy, OptLevelArg,
};
pub use definition::SettingDefinition;
pub use list::{DEFINITIONS, Settings};
pub use range::{Number, Numeric, OutOfRange, ValueRange};
pub use requirement::{Requirement, SettingsContext};
pub use seeds::Seeds;
pub use timm::{TIMM_OPTIONS, TimmAnswer, TimmOption, TimmValues};

use crate::schedule::Sched;
use serde_json::Value;

/// Value of `--batch-size auto`, which `fornax train` replaces by the largest batch size that fits.
pub const AUTO_BATCH_SIZE: u32 = 0;

impl Settings {
    /// These settings, completed by those of `lower`. A setting of `lower` is dropped if a setting here replaces it (`lr_base` replaces
    /// `lr`, another optimizer its arguments), or if it has no effect together with those here.
    pub fn over(self, mut lower: Settings) -> Settings {
        if self.lr.is_some() || self.lr_base.is_some() {
            (lower.lr, lower.lr_base) = (None, None);
        }
        if self.seed.is_some() || self.seeds.is_some() {
            (lower.seed, lower.seeds) = (None, None);
        }
        if self.opt.is_some() && self.opt != lower.opt {
            (lower.momentum, lower.opt_betas, lower.opt_eps, lower.opt_kwargs) = (None, None, None, None);
        }
        if self.amp.is_some() || self.opt_level.is_some() || self.model_dtype.is_some() {
            (lower.amp, lower.opt_level, lower.model_dtype) = (None, None, None);
        }
        if self.pretrained.is_some() || self.pretrained_path.is_some() || self.initial_checkpoint.is_some() {
            (lower.pretrained, lower.pretrained_path, lower.initial_checkpoint) = (None, None, None);
        }
        if self.img_size.is_some() || self.in_chans.is_some() || self.input_img_mode.is_some() {
            lower.input_size = None;
        }
        let alone = lower.clone();
        let (before, higher) = (alone.context(), self.given());
        let mut merged = lower.given();
        merged.extend(higher.clone());
        let all = Settings::from_map(merged);
        let after = all.context();
        all.filtered(|name| {
            let definition = definition(name);
            let loses_effect = || {
                definition.without_effect(&before).is_none() && definition.without_effect(&after).is_some()
            };
            higher.contains_key(name) || !loses_effect()
        })
    }

    /// The context of these settings alone, without a dataset's recipe.
    fn context(&self) -> SettingsContext<'_> {
        SettingsContext {
            given: self,
            sched: self.sched.unwrap_or(Sched::Cosine),
            has_warmup: self.warmup_epochs != Some(0),
            scales_lr: self.lr.is_none(),
            has_momentum: true,
            has_image_files: true,
            train_crop_mode: self.train_crop_mode,
            has_color_jitter: self.color_jitter.as_ref().is_none_or(|factors| jitters_colors(factors)),
            has_ranks: true,
        }
    }

    /// The settings whose names (with underscores) satisfy `keep`.
    pub fn filtered(&self, keep: impl Fn(&str) -> bool) -> Settings {
        let mut given = self.given();
        given.retain(|key, _| keep(key));
        Settings::from_map(given)
    }

    fn from_map(given: serde_json::Map<String, Value>) -> Settings {
        serde_json::from_value(given.into()).expect("parts of settings are settings")
    }

    /// The settings that are given, as a YAML mapping.
    pub fn to_yaml(&self) -> String {
        // JSON scalars and lists are YAML.
        self.given().iter().map(|(key, value)| format!("{key}: {value}\n")).collect()
    }

    /// The settings that are given, by name (with underscores), in the order of declaration.
    pub fn given(&self) -> serde_json::Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map.into_iter().filter(|(_, value)| !value.is_null()).collect(),
            other => unreachable!("settings are a map of plain values: {other:?}"),
        }
    }
}

/// True if a colour jitter with these factors changes images.
pub fn jitters_colors(factors: &[f64]) -> bool {
    factors.iter().any(|factor| *factor > 0.0)
}

/// Definition of a setting by its name, with underscores.
///
/// # Panics
/// If there is no such setting.
pub fn definition(name: &str) -> &'static SettingDefinition {
    DEFINITIONS.iter().find(|definition| definition.name == name).expect("it is a setting")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::TrainCropMode;
    use crate::optim::OptimizerName;

    #[test]
    fn the_higher_layer_wins_and_takes_with_it_what_it_replaces() {
        let lower = Settings {
            lr: Some(0.1),
            opt: Some("sgd".parse().expect("a name")),
            momentum: Some(0.8),
            epochs: Some(3),
            opt_betas: None,
            ..Settings::default()
        };
        let higher = Settings { epochs: Some(4), ..Settings::default() };
        let merged = higher.over(lower.clone());
        assert_eq!(merged, Settings { epochs: Some(4), ..lower.clone() });
        let adamw: Option<OptimizerName> = Some("adamw".parse().expect("a name"));
        let merged = Settings { opt: adamw.clone(), ..Settings::default() }.over(lower.clone());
        assert_eq!(merged, Settings { opt: adamw, momentum: None, ..lower.clone() });
        let merged = Settings { lr_base: Some(0.2), ..Settings::default() }.over(lower.clone());
        assert_eq!(merged, Settings { lr: None, lr_base: Some(0.2), ..lower });
    }

    #[test]
    fn another_crop_mode_drops_the_options_of_the_lower_one() {
        let of_shift = Settings {
            train_crop_mode: Some(TrainCropMode::Shift),
            shift: Some(2),
            hflip: Some(0.5),
            ..Settings::default()
        };
        let of_rrc = Settings {
            train_crop_mode: Some(TrainCropMode::Rrc),
            scale: Some(vec![0.5, 1.0]),
            ..Settings::default()
        };
        let merged = of_rrc.clone().over(of_shift.clone());
        assert_eq!(merged, Settings { hflip: Some(0.5), ..of_rrc.clone() });
        assert_eq!(of_shift.clone().over(of_rrc), of_shift);
    }
}
