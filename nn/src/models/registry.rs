//! Model registry.
use super::convnext::{ConvNeXt, ConvNeXtConfig};
use super::efficientnet::{EfficientNet, EfficientNetConfig};
use super::model::{Model, init_weights};
use super::regnet::{RegNet, RegNetConfig};
use super::resnet::{ResNet, ResNetConfig};
use super::vision_transformer::{VisionTransformer, VisionTransformerConfig};
use super::{ModelOptions, convnext, efficientnet, regnet, resnet, vision_transformer};
use crate::{Error, Result, layer_names};

/// Registry entry of a model.
#[derive(Clone, Copy, Debug)]
pub struct ModelInfo {
    /// Model name, as in timm.
    pub name: &'static str,
    /// One-line description.
    pub description: &'static str,
    /// Input preprocessing and pretrained weights.
    pub pretrained_cfg: PretrainedCfg,
    pub(super) family: Family,
}

/// Input preprocessing and pretrained weights of a model: timm's `pretrained_cfg`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PretrainedCfg {
    /// Height and width in training.
    pub input_size: [usize; 2],
    /// Height and width in evaluation, if different.
    pub test_input_size: Option<[usize; 2]>,
    /// The model is built for one input size.
    pub fixed_input_size: bool,
    /// Interpolation for resizing.
    pub interpolation: &'static str,
    /// Fraction of the resized image that evaluation crops, along each axis.
    pub crop_pct: f64,
    /// `crop_pct` at `test_input_size`.
    pub test_crop_pct: Option<f64>,
    /// Position of the crop.
    pub crop_mode: &'static str,
    /// Mean of red, green and blue, for pixels in 0..1.
    pub mean: [f64; 3],
    /// Standard deviation of red, green and blue.
    pub std: [f64; 3],
    /// Number of classes of the pretrained weights.
    pub num_classes: usize,
    /// Size of the last feature map at `input_size`.
    pub pool_size: Option<[usize; 2]>,
    /// Name of the first convolution.
    pub first_conv: &'static str,
    /// Name of the classifier.
    pub classifier: &'static str,
    /// Tag of the default pretrained weights.
    pub tag: Option<&'static str>,
}

impl PretrainedCfg {
    /// ImageNet at 224 pixels, with the layer names of ResNet.
    pub const IMAGENET: PretrainedCfg = PretrainedCfg {
        input_size: [224, 224],
        test_input_size: None,
        fixed_input_size: false,
        interpolation: "bicubic",
        crop_pct: 0.875,
        test_crop_pct: None,
        crop_mode: "center",
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        num_classes: 1000,
        pool_size: Some([7, 7]),
        first_conv: "conv1",
        classifier: "fc",
        tag: None,
    };
}

/// Architecture and its configuration.
#[derive(Clone, Copy, Debug)]
pub(super) enum Family {
    ResNet(&'static ResNetConfig<'static>),
    EfficientNet(&'static EfficientNetConfig),
    RegNet(&'static RegNetConfig),
    ConvNeXt(&'static ConvNeXtConfig),
    VisionTransformer(&'static VisionTransformerConfig),
}

impl ModelInfo {
    /// The model with all weights zero.
    pub fn build(&self, options: &ModelOptions) -> Result<Box<dyn Model>> {
        let model: Box<dyn Model> = match self.family {
            Family::ResNet(config) => Box::new(ResNet::new(config, options)?),
            Family::EfficientNet(config) => Box::new(EfficientNet::new(config, options)?),
            Family::RegNet(config) => Box::new(RegNet::new(config, options)?),
            Family::ConvNeXt(config) => Box::new(ConvNeXt::new(config, options)?),
            Family::VisionTransformer(config) => Box::new(VisionTransformer::new(config, options)?),
        };
        // The first visit sets the names of the layers.
        layer_names(&*model);
        Ok(model)
    }

    /// Hugging Face Hub id of the pretrained weights, e.g. `timm/resnet18.a1_in1k`.
    pub fn hub_id(&self) -> Option<String> {
        self.pretrained_cfg.tag.map(|tag| format!("timm/{}.{tag}", self.name))
    }
}

/// All models, by architecture.
pub fn list_models() -> impl Iterator<Item = &'static ModelInfo> {
    let families =
        [resnet::MODELS, efficientnet::MODELS, regnet::MODELS, convnext::MODELS, vision_transformer::MODELS];
    families.into_iter().flatten()
}

/// Registry entry of a model name, with or without the tag of its weights, e.g. `resnet18.a1_in1k`.
///
/// # Errors
/// If the name is unknown; the error suggests the nearest name.
pub fn find_model(name: &str) -> Result<&'static ModelInfo> {
    let known = |info: &&ModelInfo| {
        info.name == name
            || name
                .split_once('.')
                .is_some_and(|(base, tag)| info.name == base && info.pretrained_cfg.tag == Some(tag))
    };
    list_models().find(known).ok_or_else(|| {
        let nearest = list_models().map(|m| m.name).min_by_key(|m| distance(m, name));
        let hint = match nearest {
            Some(near) if distance(near, name) <= name.len() / 2 => format!("did you mean {near:?}? "),
            _ => String::new(),
        };
        let names: Vec<&str> = list_models().map(|m| m.name).collect();
        Error::UnknownModel {
            name: name.into(),
            hint: format!("{hint}available models: {}", names.join(", ")),
        }
    })
}

/// Creates a model with randomly initialised weights.
pub fn create_model(name: &str, options: &ModelOptions) -> Result<Box<dyn Model>> {
    let model = find_model(name)?.build(options)?;
    init_weights(&*model, options.seed)?;
    Ok(model)
}

/// Levenshtein distance of two names.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_name_suggests_nearest_model() {
        let Err(error) = create_model("resnet19", &ModelOptions::default()) else { panic!("no such model") };
        assert!(error.to_string().contains("did you mean \"resnet18\"?"), "{error}");
        assert_eq!(find_model("resnet18.a1_in1k").expect("its tag").name, "resnet18");
        assert!(find_model("resnet18.a2_in1k").is_err());
    }

    #[test]
    fn model_names_are_unique() {
        let mut names: Vec<&str> = list_models().map(|m| m.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
