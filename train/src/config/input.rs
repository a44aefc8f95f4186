//! Input of the network: size, channels, normalisation and evaluation transform, as timm's `resolve_data_config`.
use crate::data::eval_transform::{CropMode, EvalTransform};
use crate::data::resize::ResizeFilter;
use crate::data::{ChannelStats, DatasetSplits};
use crate::settings::{DefaultSet, Settings};
use crate::{Error, Result};
use clap::ValueEnum;
use fornax_nn::models::PretrainedCfg;

/// Input configuration. Each value is the setting's, else the dataset's, else that of the initial weights' file, else the model's.
#[derive(Clone, Debug, PartialEq)]
pub struct InputConfig {
    /// Height and width.
    pub size: [usize; 2],
    /// Channels: 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Mean and standard deviation for the normalisation.
    pub statistics: ChannelStats,
    /// Fraction of the resized image that the evaluation crop keeps.
    pub crop_pct: f64,
    /// Crop mode of the evaluation.
    pub crop_mode: CropMode,
    /// Resampling filter of the evaluation.
    pub filter: ResizeFilter,
    /// All images of the dataset have the input's size, so that they are neither resized nor cropped.
    pub is_native_size: bool,
}

impl InputConfig {
    /// Resolves the input of a run; `weights` are the settings in the file of its initial weights.
    pub fn resolve(
        given: &Settings,
        data: &DatasetSplits,
        weights: &Settings,
        model: &PretrainedCfg,
    ) -> Result<InputConfig> {
        let from_input_size = given.input_size.as_ref().map(|size| [size[1], size[2]]);
        // timm's script has no sizes, channels and statistics of a dataset's own.
        let is_timm = given.defaults == Some(DefaultSet::Timm);
        let native = data.image_size.map(|[h, w, _]| [h, w]).filter(|_| !is_timm);
        let size = from_input_size
            .or(given.img_size.map(|side| [side; 2]))
            .or(native.filter(|_| !model.fixed_input_size))
            .or(weights.input_size.as_ref().map(|size| [size[1], size[2]]))
            .unwrap_or(model.input_size);
        if size.contains(&0) {
            return Err(Error::usage("images need at least one pixel").at("--img-size, --input-size"));
        }
        let native_channels = data.image_size.map(|[.., channels]| channels).filter(|_| !is_timm);
        let channels = given.input_size.as_ref().map(|size| size[0]).or(given.in_chans);
        let of_weights = weights.input_size.as_ref().map(|size| size[0]);
        let channels = channels.or(native_channels).or(of_weights).unwrap_or(3);
        if channels != 1 && channels != 3 {
            return Err(Error::usage(format!("images have 1 or 3 channels, not {channels}"))
                .at("--in-chans, --input-size")
                .remedy("pass 1 (grey) or 3 (RGB)"));
        }
        let is_native_size = native == Some(size);
        let parse = |text: &str| format!("{text:?} in the table of models is known");
        Ok(InputConfig {
            size,
            channels,
            statistics: statistics(given, data, weights, model, channels)?,
            crop_pct: given
                .crop_pct
                .or(is_native_size.then_some(1.0))
                .or(weights.crop_pct)
                .unwrap_or(model.crop_pct),
            crop_mode: given.crop_mode.or(weights.crop_mode).unwrap_or_else(|| {
                ValueEnum::from_str(model.crop_mode, true)
                    .unwrap_or_else(|_| panic!("{}", parse(model.crop_mode)))
            }),
            filter: given.interpolation.or(weights.interpolation).unwrap_or_else(|| {
                ValueEnum::from_str(model.interpolation, true)
                    .unwrap_or_else(|_| panic!("{}", parse(model.interpolation)))
            }),
            is_native_size,
        })
    }

    /// The evaluation transform.
    pub fn eval_transform(&self) -> EvalTransform {
        EvalTransform {
            size: self.size,
            crop_pct: self.crop_pct,
            crop_mode: self.crop_mode,
            filter: self.filter,
            mean: self.statistics.mean.clone(),
            std: self.statistics.std.clone(),
        }
    }

    /// The resolved settings.
    pub(super) fn resolved(&self) -> Settings {
        Settings {
            input_size: Some(vec![self.channels, self.size[0], self.size[1]]),
            mean: Some(self.statistics.mean.clone()),
            std: Some(self.statistics.std.clone()),
            crop_pct: Some(self.crop_pct),
            crop_mode: Some(self.crop_mode),
            interpolation: Some(self.filter),
            ..Settings::default()
        }
    }
}

/// Normalisation: the settings' mean and standard deviation, else the dataset's, else those of the weights' file, else the model's.
fn statistics(
    given: &Settings,
    data: &DatasetSplits,
    weights: &Settings,
    model: &PretrainedCfg,
    channels: usize,
) -> Result<ChannelStats> {
    let white = data.statistics.as_ref().map_or(255, |own| own.white);
    let own = data.statistics.as_ref().filter(|_| given.defaults != Some(DefaultSet::Timm));
    let choose = |flag: &str,
                  given: Option<&Vec<f32>>,
                  own: Option<&Vec<f32>>,
                  weights: Option<&Vec<f32>>,
                  of_model: [f64; 3]| {
        let values = match (given, own.or(weights), channels) {
            (Some(values), ..) if values.len() == 1 => vec![values[0]; channels],
            (Some(values), ..) if values.len() == channels => values.clone(),
            (Some(values), ..) => {
                return Err(Error::usage(format!("{} values for {channels} channels", values.len()))
                    .at(flag)
                    .remedy("pass one value, or one per channel"));
            }
            (None, Some(own), _) if own.len() == channels => own.clone(),
            // Grey images as RGB.
            (None, Some(own), 3) if own.len() == 1 => vec![own[0]; 3],
            (None, _, 1) => vec![(of_model.iter().sum::<f64>() / 3.0) as f32],
            _ => of_model.map(|value| value as f32).to_vec(),
        };
        Ok(values)
    };
    let std = choose("--std", given.std.as_ref(), own.map(|own| &own.std), weights.std.as_ref(), model.std)?;
    if std.iter().any(|value| !(value.is_finite() && *value > 0.0)) {
        return Err(Error::usage("the standard deviation must be above 0").at("--std"));
    }
    Ok(ChannelStats {
        white,
        mean: choose(
            "--mean",
            given.mean.as_ref(),
            own.map(|own| &own.mean),
            weights.mean.as_ref(),
            model.mean,
        )?,
        std,
    })
}
