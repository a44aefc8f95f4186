//! Model of a run: its options and the initialisation of its classifier.
use super::DEFAULT_SEED;
use crate::settings::Settings;
use crate::{Error, Result};
use fornax_engine::{DType, Tensor};
use fornax_nn::models::Model;
use fornax_nn::{ModelOptions, create_model, named_parameters};

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
const FLAGS: [(&str, &str); 6] = [
    ("drop_block_rate", "--drop-block"),
    ("drop_path_rate", "--drop-path"),
    ("drop_rate", "--drop"),
    ("bn_", "--bn-momentum, --bn-eps and --bn-tf"),
    ("global_pool", "--gp"),
    ("in_chans", "--dataset"),
];

impl ModelConfig {
    /// Creates the configuration from settings.
    pub fn new(given: &Settings, name: &str) -> Result<ModelConfig> {
        let mut options = ModelOptions {
            seed: given.seed.unwrap_or(DEFAULT_SEED),
            drop_rate: given.drop.unwrap_or(0.0),
            drop_path_rate: given.drop_path.unwrap_or(0.0),
            drop_block_rate: given.drop_block.unwrap_or(0.0),
            bn_momentum: given.bn_momentum,
            bn_eps: given.bn_eps,
            bn_tf: given.bn_tf.unwrap_or(false),
            ..ModelOptions::default()
        };
        if let Some(pooling) = &given.gp {
            options.global_pool = pooling.parse().map_err(|why: String| Error::usage(why).at("--gp"))?;
        }
        let (head_init_scale, head_init_bias) = (given.head_init_scale, given.head_init_bias);
        Ok(ModelConfig { name: name.into(), options, head_init_scale, head_init_bias })
    }

    /// Resolved settings of the model.
    pub(super) fn resolved(&self, given: &Settings) -> Settings {
        Settings {
            model: Some(self.name.clone()),
            pretrained: given.pretrained.filter(|_| given.pretrained_path.is_none()),
            pretrained_path: given.pretrained_path.clone(),
            initial_checkpoint: given.initial_checkpoint.clone(),
            drop: given.drop,
            drop_path: given.drop_path,
            drop_block: given.drop_block,
            bn_momentum: given.bn_momentum,
            bn_eps: given.bn_eps,
            bn_tf: given.bn_tf,
            gp: given.gp.clone(),
            head_init_scale: given.head_init_scale,
            head_init_bias: given.head_init_bias,
            ..Settings::default()
        }
    }

    /// Builds the model with initial weights.
    pub fn create(&self, num_classes: usize, in_chans: usize) -> Result<Box<dyn Model>> {
        let options = ModelOptions { num_classes, in_chans, ..self.options.clone() };
        let model = create_model(&self.name, &options).map_err(|error| match &error {
            fornax_nn::Error::ModelOption { option, .. } => {
                let flag = FLAGS.iter().find(|(name, _)| option.starts_with(name));
                Error::usage(error.to_string()).at(flag.map_or("--model", |(_, flag)| flag))
            }
            _ => Error::usage(error.to_string()).at("--model"),
        })?;
        Ok(model)
    }

    /// Applies `--head-init-scale` and `--head-init-bias` to the classifier, at the start of a run.
    pub fn init_head(&self, model: &dyn Model) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_init_scales_classifier_and_sets_bias() {
        let of = |given: Settings| {
            let config = ModelConfig::new(&given, "resnet8").expect("valid");
            let model = config.create(5, 3).expect("a model");
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
    fn unsupported_model_option_names_its_flag() {
        let given = Settings { drop_block: Some(0.1), ..Settings::default() };
        let config = ModelConfig::new(&given, "mobilenetv2_100").expect("valid");
        let error = config.create(5, 3).err().expect("it has no DropBlock").to_string();
        assert!(error.contains("--drop-block"), "{error}");
    }
}
