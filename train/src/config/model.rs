//! Model of a run: its options and the initialisation of its classifier.
use super::{DEFAULT_SEED, InputConfig};
use crate::nearest::{nearest, nearest_names};
use crate::settings::Settings;
use crate::{Error, Result};
use fornax_engine::{DType, Tensor};
use fornax_nn::models::{Model, PretrainedCfg, find_model, list_models};
use fornax_nn::{ModelOptions, create_model, named_parameters, state_entries};

/// Model configuration, without the number of classes and channels, which the dataset decides.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Model name.
    pub name: String,
    /// Model options.
    pub options: ModelOptions,
    /// Scale of the classifier's initial weights and biases.
    pub head_init_scale: Option<f64>,
    /// Initial value of the classifier's biases.
    pub head_init_bias: Option<f64>,
}

/// Flags of model options, by the option's name in `fornax_nn`.
const FLAGS: [(&str, &str); 7] = [
    ("drop_block_rate", "--drop-block"),
    ("drop_path_rate", "--drop-path"),
    ("drop_rate", "--drop"),
    ("bn_", "--bn-momentum, --bn-eps, --bn-tf and --split-bn"),
    ("global_pool", "--gp"),
    ("in_chans", "--in-chans"),
    ("img_size", "--img-size"),
];

impl ModelConfig {
    /// Creates the configuration from settings.
    pub fn new(given: &Settings, name: &str) -> Result<ModelConfig> {
        let mut options = ModelOptions {
            seed: given.seed.unwrap_or(DEFAULT_SEED),
            drop_rate: given.drop.unwrap_or(0.0),
            drop_path_rate: given.drop_path.or(given.drop_connect).unwrap_or(0.0),
            drop_block_rate: given.drop_block.unwrap_or(0.0),
            bn_momentum: given.bn_momentum,
            bn_eps: given.bn_eps,
            bn_tf: given.bn_tf.unwrap_or(false),
            bn_splits: if given.split_bn == Some(true) {
                given.aug_splits.unwrap_or(0).max(2) as usize
            } else {
                1
            },
            ..ModelOptions::default()
        };
        if let Some(pooling) = &given.gp {
            options.global_pool = pooling.parse().map_err(|why: String| Error::usage(why).at("--gp"))?;
        }
        for text in given.model_kwargs.iter().flatten() {
            let fail = |why: String| Error::usage(why).at("--model-kwargs");
            let (key, value) =
                text.split_once('=').ok_or_else(|| fail(format!("{text:?} is not NAME=VALUE")))?;
            options.set(key, value).map_err(|e| {
                match nearest(key, ModelOptions::NAMES).filter(|near| *near != key) {
                    Some(near) => fail(format!("unknown model option {key:?}"))
                        .remedy(format!("did you mean {near}={value}?")),
                    None => fail(e.to_string()),
                }
            })?;
        }
        let (head_init_scale, head_init_bias) = (given.head_init_scale, given.head_init_bias);
        Ok(ModelConfig { name: timm_name(name).into(), options, head_init_scale, head_init_bias })
    }

    /// Resolved settings of the model.
    pub(super) fn resolved(&self, given: &Settings) -> Settings {
        Settings {
            model: Some(self.name.clone()),
            pretrained: given.pretrained.filter(|_| given.pretrained_path.is_none()),
            pretrained_path: given.pretrained_path.clone(),
            initial_checkpoint: given.initial_checkpoint.clone(),
            reset_classifier: given.reset_classifier,
            drop: given.drop,
            drop_path: given.drop_path.or(given.drop_connect),
            drop_block: given.drop_block,
            bn_momentum: given.bn_momentum,
            bn_eps: given.bn_eps,
            bn_tf: given.bn_tf,
            split_bn: given.split_bn,
            gp: given.gp.clone(),
            model_kwargs: given.model_kwargs.clone(),
            head_init_scale: given.head_init_scale,
            head_init_bias: given.head_init_bias,
            ..Settings::default()
        }
    }

    /// Builds the model with initial weights, for an input.
    pub fn create(&self, num_classes: usize, input: &InputConfig) -> Result<Box<dyn Model>> {
        let img_size = self.pretrained_cfg()?.fixed_input_size.then_some(input.size);
        let options =
            ModelOptions { num_classes, in_chans: input.channels, img_size, ..self.options.clone() };
        let model = create_model(&self.name, &options).map_err(|error| match &error {
            fornax_nn::Error::ModelOption { option, .. } => {
                let flag = FLAGS.iter().find(|(name, _)| option.starts_with(name));
                Error::usage(error.to_string()).at(flag.map_or("--model", |(_, flag)| flag))
            }
            fornax_nn::Error::UnknownModel { name, .. } => unknown_model(name).at("--model"),
            _ => Error::usage(error.to_string()).at("--model"),
        })?;
        copy_to_splits(&*model)?;
        Ok(model)
    }

    /// Properties of the model's pretrained weights, such as their input size and normalisation.
    pub fn pretrained_cfg(&self) -> Result<&'static PretrainedCfg> {
        let info = find_model(&self.name).map_err(|_| unknown_model(&self.name).at("--model"))?;
        Ok(&info.pretrained_cfg)
    }

    /// Applies `--head-init-scale` and `--head-init-bias` to the classifier, at the start of a run, and copies loaded batch norm layers to
    /// those of `--split-bn`.
    pub fn init_head(&self, model: &dyn Model) -> Result<()> {
        copy_to_splits(model)?;
        let classifier = model.classifier_name();
        for (name, tensor) in named_parameters(model) {
            let part = name.strip_prefix(classifier).and_then(|rest| rest.strip_prefix('.'));
            if let (Some("weight" | "bias"), Some(scale)) = (part, self.head_init_scale) {
                tensor.copy_from(&tensor.detach().mul_scalar(scale)?)?;
            }
            if let (Some("bias"), Some(bias)) = (part, self.head_init_bias) {
                tensor.copy_from(&Tensor::full(*tensor.shape(), bias, DType::F32, &tensor.device())?)?;
            }
        }
        Ok(())
    }
}

/// A model's name in timm's spellings of hub names: `hf_hub:timm/resnet50.a1_in1k`, `timm/resnet50.a1_in1k`.
pub fn timm_name(name: &str) -> &str {
    let id = name.strip_prefix("hf-hub:").or(name.strip_prefix("hf_hub:")).unwrap_or(name);
    id.strip_prefix("timm/").unwrap_or(name)
}

/// The error about an unknown model, with the nearest names.
pub fn unknown_model(name: &str) -> Error {
    let error = Error::usage(format!("unknown model {name:?}"));
    let base = timm_name(name).split('.').next().unwrap_or_default();
    if let Ok(info) = find_model(base) {
        let published = info.hub_id().unwrap_or_else(|| base.into());
        let published = published.trim_start_matches("timm/");
        return error.because(format!("its tag of published weights is not the one of {published}")).remedy(
            format!("use {published}, or pass the weights to {base} with --pretrained-path hf-hub:timm/NAME"),
        );
    }
    let near = nearest_names(base, list_models().map(|info| info.name));
    error.remedy(match &near[..] {
        [] => "`fornax models` lists the models".to_string(),
        [names @ .., last] if !names.is_empty() => {
            format!("did you mean {} or {last}? `fornax models` lists all", names.join(", "))
        }
        names => format!("did you mean {}? `fornax models` lists all", names.join("")),
    })
}

/// Copies each batch norm layer to the layers of its splits, as timm's `convert_splitbn_model`.
fn copy_to_splits(model: &dyn Model) -> Result<()> {
    let entries = state_entries(model);
    for entry in &entries {
        let Some((layer, split)) = entry.name.split_once(".aux_bn.") else { continue };
        let (_, tensor) = split.split_once('.').expect("a layer of a split has a number");
        let of_layer = format!("{layer}.{tensor}");
        let source = entries.iter().find(|entry| entry.name == of_layer).expect("splits belong to a layer");
        entry.tensor.copy_from(&source.tensor.detach())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DatasetOptions;
    use fornax_nn::Context;

    fn create(config: &ModelConfig) -> Result<Box<dyn Model>> {
        let data = DatasetOptions::default().open()?;
        let input = InputConfig::resolve(
            &Settings::default(),
            &data,
            &Settings::default(),
            config.pretrained_cfg()?,
        )?;
        config.create(5, &input)
    }

    #[test]
    fn head_init_scales_classifier_and_sets_bias() {
        let of = |given: Settings| {
            let config = ModelConfig::new(&given, "resnet8").expect("valid");
            let model = create(&config).expect("a model");
            config.init_head(&*model).expect("f32");
            let values = |end: &str| {
                let named = named_parameters(&*model).into_iter().find(|(name, _)| name.ends_with(end));
                named.expect("a parameter").1.to_vec::<f32>().expect("f32")
            };
            (values("fc.weight"), values("fc.bias"), values("layer1.0.conv1.weight"))
        };
        let plain = of(Settings::default());
        let scaled =
            Settings { head_init_scale: Some(0.5), head_init_bias: Some(-2.0), ..Settings::default() };
        let scaled = of(scaled);
        assert!(plain.0.iter().zip(&scaled.0).all(|(a, b)| 0.5 * a == *b));
        assert_eq!((scaled.1, scaled.2), (vec![-2.0; 5], plain.2));
    }

    #[test]
    fn split_batch_norm_starts_with_copies_and_normalises_each_split() {
        let given = Settings { split_bn: Some(true), aug_splits: Some(2), ..Settings::default() };
        let config = ModelConfig::new(&given, "resnet8").expect("valid");
        let model = create(&config).expect("a model");
        let named = |name: &str| {
            let entry = state_entries(&*model).into_iter().find(|entry| entry.name == name).expect(name);
            entry.tensor.to_vec::<f32>().expect("f32")
        };
        named("bn1.weight");
        assert_eq!(named("layer1.0.bn2.aux_bn.0.weight"), named("layer1.0.bn2.weight"));
        // A bright split, and a dark one.
        let pixels: Vec<f32> =
            (0..4 * 64).map(|i| if i < 2 * 64 { 1.0 + i as f32 } else { -(i as f32) }).collect();
        let images = Tensor::from_slice(&pixels, [4, 8, 8, 1]).expect("a tensor");
        model.forward(&images, &mut Context::train()).expect("a forward pass");
        assert_ne!(named("bn1.running_mean"), named("bn1.aux_bn.0.running_mean"));
        model.forward(&images, &mut Context::eval()).expect("evaluation uses the first layers");
        let given = Settings { split_bn: Some(true), ..Settings::default() };
        assert!(
            crate::config::Config::resolve(&given).expect_err("no splits").to_string().contains("--split-bn")
        );
        let given = Settings { resplit: Some(true), ..given };
        let config = crate::config::Config::resolve(&given).expect("--resplit makes two splits");
        assert_eq!(config.model.options.bn_splits, 2);
    }

    #[test]
    fn models_are_found_by_the_spellings_of_timm() {
        for name in ["hf_hub:timm/resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"]
        {
            let config = ModelConfig::new(&Settings::default(), name).expect("valid");
            assert_eq!(config.name, "resnet18.a1_in1k");
            config.pretrained_cfg().expect("a model of timm");
        }
    }

    #[test]
    fn unknown_models_and_options_suggest_the_nearest_name() {
        let error = unknown_model("resnet19").to_string();
        assert!(error.contains("did you mean resnet18, ") && !error.contains("vit_"), "{error}");
        let error = unknown_model("resnet18.a3_in1k").to_string();
        assert!(error.contains("use resnet18.a1_in1k"), "{error}");
        let error = unknown_model("swin_tiny_patch4_window7_224").to_string();
        assert!(error.contains("`fornax models`"), "{error}");
        let given = Settings { model_kwargs: Some(vec!["dorp_path_rate=0.1".into()]), ..Settings::default() };
        let error = ModelConfig::new(&given, "resnet8").expect_err("a typo").to_string();
        assert!(error.contains("did you mean drop_path_rate=0.1?"), "{error}");
    }

    #[test]
    fn unsupported_model_option_names_its_flag() {
        let given = Settings { drop_block: Some(0.1), ..Settings::default() };
        let config = ModelConfig::new(&given, "mobilenetv2_100").expect("valid");
        let error = create(&config).err().expect("it has no DropBlock").to_string();
        assert!(error.contains("--drop-block"), "{error}");
    }
}
