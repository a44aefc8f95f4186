//! `fornax models save`: initial weights of a model as a safetensors file.
use super::{output_file, print};
use crate::settings::Settings;
use crate::weights::WeightsIdentity;
use crate::{Error, Result};
use clap::ValueEnum;
use fornax_nn::models::{create_model, find_model};
use fornax_nn::{ModelOptions, state_dict};
use std::path::Path;

/// Initialises a model and writes its weights with timm's names and PyTorch's shapes, and its input in the metadata. `model_kwargs` are
/// those in `options`.
pub fn save(name: &str, options: &ModelOptions, model_kwargs: &[String], path: &Path) -> Result<()> {
    let fail = |e: fornax_nn::Error| Error::usage(format!("{name}: {e}"));
    let model = create_model(name, options).map_err(fail)?;
    let state = state_dict::state_dict(&*model).map_err(fail)?;
    let cfg = &find_model(name).map_err(fail)?.pretrained_cfg;
    let [h, w] = options.img_size.unwrap_or(cfg.input_size);
    let per_channel = |values: [f64; 3]| match options.in_chans {
        1 => vec![(values.iter().sum::<f64>() / 3.0) as f32],
        _ => values.map(|value| value as f32).to_vec(),
    };
    let settings = Settings {
        model: Some(name.into()),
        model_kwargs: Some(model_kwargs.to_vec()).filter(|all| !all.is_empty()),
        input_size: Some(vec![options.in_chans, h, w]),
        mean: Some(per_channel(cfg.mean)),
        std: Some(per_channel(cfg.std)),
        crop_pct: Some(cfg.crop_pct),
        crop_mode: ValueEnum::from_str(cfg.crop_mode, true).ok(),
        interpolation: ValueEnum::from_str(cfg.interpolation, true).ok(),
        ..Settings::default()
    };
    let mut metadata = WeightsIdentity::of_model(settings).metadata();
    metadata.insert("format".to_string(), "pt".to_string());
    let bytes = state_dict::to_safetensors(&state, Some(metadata)).map_err(fail)?;
    output_file::write(path, &bytes)?;
    print(&format!(
        "saved {} tensors of {name}, initialised with seed {}, to {}\n",
        state.len(),
        options.seed,
        path.display()
    ))?;
    Ok(())
}
