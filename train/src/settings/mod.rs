//! Settings of a training run as given on the command line, in a YAML file or in a checkpoint. All are optional;
//! [`crate::config`] resolves them.
mod choices;
mod definition;
mod list;
mod on_resume;
mod range;
mod requirement;
mod seeds;
mod serde_text;
mod timm;
mod validity;
pub mod value_parsers;

pub use choices::{
    AmpDtype, ClipMode, ConvAlgo, DefaultSet, DistBn, EraseModeArg, EvalMetric, GradCompression, ImageMode,
    LrScale, ModelDtype, NonfinitePolicy, OptLevelArg,
};
pub use definition::SettingDefinition;
pub use list::{DEFINITIONS, Settings};
pub use on_resume::OnResume;
pub use range::{Number, Numeric, OutOfRange, ValueRange};
pub use requirement::{Requirement, SettingsContext};
pub use seeds::Seeds;
pub use timm::{TIMM_OPTIONS, TimmAnswer, TimmOption, TimmValues};

use crate::schedule::Sched;
use serde_json::Value;

/// Value of `--batch-size auto`, which `fornax train` replaces by the largest batch size that fits.
pub const AUTO_BATCH_SIZE: u32 = 0;

/// Settings that are other names of the same thing: one of the first in a layer replaces the second in the layers below.
const REPLACEMENTS: [(&[&str], &[&str]); 6] = [
    (&["lr", "lr_base"], &["lr", "lr_base"]),
    (&["seed", "seeds"], &["seed", "seeds"]),
    (&["amp", "opt_level", "model_dtype"], &["amp", "opt_level", "model_dtype"]),
    (&["model_dtype"], &["amp_dtype"]),
    (
        &["pretrained", "pretrained_path", "initial_checkpoint"],
        &["pretrained", "pretrained_path", "initial_checkpoint"],
    ),
    (&["drop_path", "drop_connect"], &["drop_path", "drop_connect"]),
];

impl Settings {
    /// These settings, completed by those of `lower`. A setting of `lower` is dropped if a setting here replaces it (`lr_base` replaces
    /// `lr`, another optimizer its arguments), or if it has no effect together with those here.
    pub fn over(mut self, mut lower: Settings) -> Settings {
        let alone = lower.clone();
        if self.opt.is_some() && self.opt != lower.opt {
            (lower.momentum, lower.opt_betas, lower.opt_eps, lower.opt_kwargs) = (None, None, None, None);
        }
        if let Some(dtype) = lower.model_dtype.and_then(ModelDtype::half).filter(|_| self.amp_dtype.is_some())
        {
            // The level remains, in the dtype of the higher layer.
            (lower.model_dtype, lower.opt_level, lower.amp_dtype) =
                (None, Some(OptLevelArg::O3), Some(dtype));
        }
        if let Some(Ok([channels, height, width])) = lower.input_size.as_deref().map(<[usize; 3]>::try_from) {
            self.replace_input_size([channels, height, width]);
            if self.input_size.as_ref().is_some_and(|size| size.first() != Some(&channels)) {
                // One value suits any number of channels.
                let suits = |values: &Vec<f32>| values.len() == 1;
                (lower.mean, lower.std) = (lower.mean.filter(suits), lower.std.filter(suits));
            }
        }
        for (names, replaced) in REPLACEMENTS {
            if self.has_any(names) {
                lower = lower.filtered(|name| !replaced.contains(&name));
            }
        }
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

    /// Sets the whole input size if a part of it is set, over a lower layer's.
    fn replace_input_size(&mut self, [channels, height, width]: [usize; 3]) {
        let of_mode = self.input_img_mode.map(ImageMode::channels);
        let has_part = self.img_size.is_some() || self.in_chans.is_some() || of_mode.is_some();
        if self.input_size.is_none() && has_part {
            let [height, width] = self.img_size.take().map_or([height, width], |side| [side; 2]);
            let channels = self.in_chans.take().or(of_mode).unwrap_or(channels);
            self.input_size = Some(vec![channels, height, width]);
        }
    }

    /// True if a setting of these names is given.
    fn has_any(&self, names: &[&str]) -> bool {
        let given = self.given();
        names.iter().any(|name| given.contains_key(*name))
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
    fn names_of_one_thing_replace_each_other_between_layers() {
        let merged = |higher: Settings, lower: Settings| higher.over(lower);
        let weights = Settings { model_dtype: Some(ModelDtype::Bfloat16), ..Settings::default() };
        let resolved = Settings {
            opt_level: Some(OptLevelArg::O3),
            amp_dtype: Some(AmpDtype::Bfloat16),
            ..Settings::default()
        };
        assert_eq!(merged(weights.clone(), resolved.clone()), weights, "of a checkpoint of the same options");
        let other = Settings { amp_dtype: Some(AmpDtype::Float16), ..Settings::default() };
        let expected = Settings { amp_dtype: Some(AmpDtype::Float16), ..resolved.clone() };
        assert_eq!(merged(other.clone(), weights.clone()), expected);
        assert_eq!(merged(other, resolved.clone()), expected);
        let amp = Settings { amp: Some(true), ..Settings::default() };
        assert_eq!(merged(amp.clone(), weights), amp);
        let full = Settings { model_dtype: Some(ModelDtype::Float32), ..Settings::default() };
        assert_eq!(merged(full.clone(), resolved), full);
        let path = Settings { drop_path: Some(0.1), ..Settings::default() };
        let connect = Settings { drop_connect: Some(0.2), ..Settings::default() };
        assert_eq!(merged(connect.clone(), path.clone()), connect);
        assert_eq!(merged(path.clone(), connect), path);
    }

    #[test]
    fn part_of_the_input_size_keeps_the_other_parts() {
        let lower = Settings { input_size: Some(vec![1, 12, 20]), ..Settings::default() };
        let size = |higher: Settings| higher.over(lower.clone()).input_size.expect("whole");
        assert_eq!(size(Settings { img_size: Some(16), ..Settings::default() }), [1, 16, 16]);
        assert_eq!(size(Settings { in_chans: Some(3), ..Settings::default() }), [3, 12, 20]);
        let mode = Settings { input_img_mode: Some(ImageMode::Rgb), ..Settings::default() };
        assert_eq!(size(mode), [3, 12, 20]);
        assert_eq!(size(Settings::default()), [1, 12, 20]);
        let colours = Settings {
            input_size: Some(vec![3, 8, 8]),
            mean: Some(vec![0.1, 0.2, 0.3]),
            std: Some(vec![0.5]),
            ..Settings::default()
        };
        let grey = Settings { in_chans: Some(1), ..Settings::default() }.over(colours);
        assert_eq!((grey.mean, grey.std), (None, Some(vec![0.5])));
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
