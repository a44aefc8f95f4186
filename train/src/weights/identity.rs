//! What weights say of their model and its input: in the metadata of a checkpoint, of a file that `fornax ckpt` wrote, or of a checkpoint of
//! timm's `train.py`.
use super::{Weights, safetensors_header};
use crate::checkpoint::{self, CheckpointHeader};
use crate::settings::Settings;
use fornax_nn::models::find_model;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::Path;

/// Key of the metadata.
const KEY: &str = "fornax.model";
/// Key of the class names in its JSON object; the others are settings.
const CLASSES: &str = "classes";

/// Settings of the model and its input.
const SETTINGS: [&str; 13] = [
    "model",
    "model_kwargs",
    "gp",
    "bn_eps",
    "bn_tf",
    "input_size",
    "mean",
    "std",
    "crop_pct",
    "crop_mode",
    "interpolation",
    "exif_orientation",
    "gray16",
];

/// Model, classes and input of weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightsIdentity {
    /// Settings of the model and its input; those of a run, whole.
    pub settings: Settings,
    /// Class names in the order of the logits; empty if unknown.
    pub classes: Vec<String>,
}

impl WeightsIdentity {
    /// Identity of a run's checkpoint.
    pub fn of_run(header: &CheckpointHeader) -> WeightsIdentity {
        let statistics = &header.statistics;
        let of_header = Settings {
            input_size: header.image_size.map(|[h, w, c]| vec![c, h, w]),
            mean: Some(statistics.mean.clone()),
            std: Some(statistics.std.clone()),
            exif_orientation: Some(false),
            // Older checkpoints are of runs that neither resized nor cropped.
            crop_pct: header.image_size.map(|_| 1.0),
            ..Settings::default()
        };
        let mut all = of_header.given();
        all.extend(header.settings.given());
        let settings = serde_json::from_value(all.into()).expect("parts of settings are settings");
        WeightsIdentity { settings, classes: header.classes.clone() }
    }

    /// Identity of a model with these settings and classes without names.
    pub fn of_model(settings: Settings) -> WeightsIdentity {
        WeightsIdentity { settings: Settings { exif_orientation: Some(false), ..settings }, classes: vec![] }
    }

    /// Identity of a model that is known by its name alone, if there is one of this name.
    pub fn of_architecture(name: &str) -> Option<WeightsIdentity> {
        let info = find_model(name).ok()?;
        let settings = Settings { model: Some(info.name.into()), ..Settings::default() };
        Some(WeightsIdentity { settings, classes: vec![] })
    }

    /// Reads the identity from a file's metadata, if it is there.
    pub fn read(metadata: &HashMap<String, String>) -> Result<Option<WeightsIdentity>, String> {
        let Some(text) = metadata.get(KEY) else { return Ok(None) };
        let damaged = |why: String| format!("its metadata {KEY:?} is damaged: {why}");
        let mut all: Map<String, Value> = serde_json::from_str(text).map_err(|e| damaged(e.to_string()))?;
        let classes = all.remove(CLASSES).map_or(Ok(vec![]), serde_json::from_value);
        let classes = classes.map_err(|e| damaged(e.to_string()))?;
        // Of another version, maybe.
        all.retain(|key, _| SETTINGS.contains(&key.as_str()));
        let settings: Settings = serde_json::from_value(all.into()).map_err(|e| damaged(e.to_string()))?;
        settings.check_values().map_err(damaged)?;
        let positive = |values: &Vec<f32>| values.iter().all(|value| value.is_finite() && *value > 0.0);
        let is_valid = settings.std.as_ref().is_none_or(positive)
            && settings.mean.as_ref().is_none_or(|mean| mean.iter().all(|value| value.is_finite()))
            && settings.crop_pct.is_none_or(|value| value.is_finite() && value > 0.0)
            && settings.input_size.as_ref().is_none_or(|size| size.len() == 3 && !size.contains(&0));
        match is_valid {
            true => Ok(Some(WeightsIdentity { settings, classes })),
            false => Err(damaged("a value is out of range".into())),
        }
    }

    /// The metadata of a file of these weights.
    pub fn metadata(&self) -> HashMap<String, String> {
        HashMap::from([(KEY.to_string(), self.json().to_string())])
    }

    /// The settings of the model and its input, and the classes, as a JSON object.
    pub fn json(&self) -> Value {
        let mut all = self.settings.filtered(|name| SETTINGS.contains(&name)).given();
        if !self.classes.is_empty() {
            all.insert(CLASSES.into(), self.classes.clone().into());
        }
        Value::Object(all)
    }

    /// Name of the model.
    pub fn model(&self) -> Option<&str> {
        self.settings.model.as_deref()
    }

    /// Height and width of the images.
    pub fn size(&self) -> Option<[usize; 2]> {
        match self.settings.input_size.as_deref() {
            Some([_, h, w]) => Some([*h, *w]),
            _ => None,
        }
    }

    /// The model and its number of classes, such as "a resnet18 with 9 classes"; `None` if the model is unknown.
    pub fn describe(&self, weights: &Weights) -> Option<String> {
        let model = self.model()?;
        let rows = || {
            let classifier = find_model(model).ok()?.pretrained_cfg.classifier;
            weights.get(&format!("{classifier}.weight"))?.shape.first().copied()
        };
        let classes = Some(self.classes.len()).filter(|count| *count > 0).or_else(rows);
        let article = if model.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        Some(match classes {
            Some(1) => format!("{article} {model} with 1 class"),
            Some(count) => format!("{article} {model} with {count} classes"),
            None => format!("{article} {model}"),
        })
    }
}

/// Identity of a local weights file: reads the header of a safetensors file only. `None` if it has none or cannot be read.
pub fn identity_at(path: &Path) -> Option<WeightsIdentity> {
    let Some(header) = safetensors_header(path).ok()? else {
        // A PyTorch file, or none.
        return super::WeightsFile::open(path).ok()?.identity().ok()?;
    };
    let metadata = header.metadata;
    match checkpoint::header(&metadata).ok()? {
        Some(header) => Some(WeightsIdentity::of_run(&header)),
        None => WeightsIdentity::read(&metadata).ok()?,
    }
}
