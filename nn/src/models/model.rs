//! Interface of the models of the zoo, feature extraction and weight initialisation.
use crate::layers::ClassifierHead;
use crate::{Context, Error, Module, Result, StateEntry, StateKind, init, layer_names, state_entries};
use fornax_engine::Tensor;
use fornax_engine::random::RngStream;
use std::sync::Arc;

/// Image classification model: a feature extractor and a head, with timm's interface.
pub trait Model: Module {
    /// Unpooled features: feature maps `[n, h, w, c]`, or tokens `[n, l, c]`.
    fn forward_features(&self, x: &Tensor, cx: &mut Context) -> fornax_engine::Result<Tensor>;

    /// Logits of features. With `pre_logits`, the input of the classifier.
    fn forward_head(
        &self,
        features: &Tensor,
        pre_logits: bool,
        cx: &mut Context,
    ) -> fornax_engine::Result<Tensor>;

    /// Levels of the feature pyramid, from fine to coarse.
    fn feature_info(&self) -> Vec<FeatureInfo>;

    /// The classifier head.
    fn head(&self) -> &ClassifierHead;

    /// The classifier head, mutable.
    fn head_mut(&mut self) -> &mut ClassifierHead;

    /// Dotted name of the classifier.
    fn classifier_name(&self) -> &'static str;

    /// Initialises a parameter. `fan_in` is the fan-in of its layer.
    fn init_parameter(
        &self,
        parameter: &StateEntry,
        fan_in: usize,
        rng: &mut RngStream,
    ) -> fornax_engine::Result<()>;

    /// Name suffixes of parameters without weight decay, in addition to biases and parameters of one axis. timm's `no_weight_decay`.
    fn no_weight_decay(&self) -> &'static [&'static str] {
        &[]
    }

    /// Layer group of a parameter for layer-wise learning-rate decay, as timm's `group_matcher`. Groups are ordered lexicographically from the
    /// input to the head; a group that ends with [`MATCH_PREV_GROUP`] is merged with the previous one. `None` for the last layer.
    fn layer_group(&self, parameter: &str) -> Option<Vec<usize>>;

    /// Converts a captured layer output to a feature map `[n, h, w, c]`, for images of the given height and width.
    fn to_feature_map(&self, output: &Tensor, image: [usize; 2]) -> fornax_engine::Result<Tensor> {
        let _ = image;
        Ok(output.clone())
    }
}

/// Last component of a [`Model::layer_group`] that belongs to the previous group. timm's constant of the same name.
pub const MATCH_PREV_GROUP: usize = 99_999;

/// Level of a feature pyramid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureInfo {
    /// Name of the layer whose output it is.
    pub module: String,
    /// Number of channels.
    pub channels: usize,
    /// Stride relative to the image.
    pub reduction: usize,
}

impl FeatureInfo {
    pub(super) fn new(module: impl Into<String>, channels: usize, reduction: usize) -> FeatureInfo {
        FeatureInfo { module: module.into(), channels, reduction }
    }
}

/// Initialises every parameter. Random values depend on the seed and the parameter's name.
pub fn init_weights(model: &dyn Model, seed: u64) -> fornax_engine::Result<()> {
    init_where(model, seed, |_| true)
}

fn init_where(model: &dyn Model, seed: u64, which: impl Fn(&str) -> bool) -> fornax_engine::Result<()> {
    let mut fan_in = 0;
    for parameter in
        state_entries(model).into_iter().filter(|e| e.kind == StateKind::Parameter && which(&e.name))
    {
        if parameter.tensor.rank() > 1 {
            // A layer's bias follows its weight, and uses its fan-in.
            fan_in = parameter.tensor.dims()[1..].iter().product();
        }
        model.init_parameter(&parameter, fan_in, &mut init::rng(seed, &parameter.name))?;
    }
    Ok(())
}

impl dyn Model + '_ {
    /// The classifier; `None` if `num_classes` is 0.
    pub fn get_classifier(&self) -> Option<&dyn Module> {
        self.head().classifier()
    }

    /// Channels of the unpooled features.
    pub fn num_features(&self) -> usize {
        self.head().channels()
    }

    /// Input features of the classifier.
    pub fn head_hidden_size(&self) -> usize {
        self.head().features()
    }

    /// Replaces the classifier by a newly initialised one for another number of classes; 0 removes it. The new classifier is on the CPU.
    pub fn reset_classifier(&mut self, num_classes: usize, seed: u64) -> Result<()> {
        self.head_mut().reset(num_classes)?;
        let prefix = format!("{}.", self.classifier_name());
        Ok(init_where(self, seed, |name| name.starts_with(&prefix))?)
    }

    /// Replaces the classifier by a module with input `[n, head_hidden_size]`; `None` removes it.
    pub fn set_classifier(&mut self, classifier: Option<Arc<dyn Module>>) {
        self.head_mut().replace(classifier);
    }

    /// Outputs of the named layers in a forward pass, in the given order. Names are dotted, as in [`crate::layer_names`].
    pub fn forward_intermediates(
        &self,
        x: &Tensor,
        layers: &[&str],
        cx: &mut Context,
    ) -> Result<Vec<Tensor>> {
        capture_outputs(self, layers, cx, |cx| self.forward(x, cx))
    }
}

/// Feature extractor, as timm's `features_only=True`: some levels of a model's feature pyramid.
pub struct FeatureExtractor {
    model: Box<dyn Model>,
    levels: Vec<FeatureInfo>,
}

impl FeatureExtractor {
    /// Extractor of the levels `out_indices` of the model's feature info; negative indices count from the end. `None` selects all levels.
    pub fn new(model: Box<dyn Model>, out_indices: Option<&[isize]>) -> Result<FeatureExtractor> {
        let all = model.feature_info();
        let levels = match out_indices {
            None => all,
            Some(indices) => indices
                .iter()
                .map(|&i| {
                    let index = if i < 0 { i + all.len() as isize } else { i };
                    usize::try_from(index).ok().and_then(|i| all.get(i)).cloned().ok_or_else(|| {
                        let why = format!("the model has {} levels", all.len());
                        Error::ModelOption { option: format!("out_indices={i}"), why }
                    })
                })
                .collect::<Result<_>>()?,
        };
        Ok(FeatureExtractor { model, levels })
    }

    /// The extracted levels.
    pub fn feature_info(&self) -> &[FeatureInfo] {
        &self.levels
    }

    /// The model. Its parameters have the same names as without the extractor.
    pub fn model(&self) -> &dyn Model {
        &*self.model
    }

    /// Feature maps `[n, h, w, c]`, one per level.
    pub fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Vec<Tensor>> {
        let layers: Vec<&str> = self.levels.iter().map(|level| level.module.as_str()).collect();
        let outputs = capture_outputs(&*self.model, &layers, cx, |cx| self.model.forward_features(x, cx))?;
        let image = [x.dims()[1], x.dims()[2]];
        Ok(outputs
            .iter()
            .map(|t| self.model.to_feature_map(t, image))
            .collect::<fornax_engine::Result<_>>()?)
    }
}

fn capture_outputs(
    model: &dyn Model,
    layers: &[&str],
    cx: &mut Context,
    pass: impl FnOnce(&mut Context) -> fornax_engine::Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let all = layer_names(model);
    let mut capturing = cx.clone().with_output_capture(Some(layers));
    pass(&mut capturing)?;
    let outputs = capturing.take_captured();
    *cx = capturing.restore_capture(cx);
    let find = |layer: &&str| {
        // The last output of a layer that runs several times.
        outputs.iter().rfind(|o| o.name == **layer).map(|o| o.output.clone()).ok_or_else(|| {
            let near = all.iter().min_by_key(|name| super::registry::distance(name, layer));
            let hint = near.map(|near| format!("did you mean {near:?}?")).unwrap_or_default();
            let why = format!("no layer of this name runs in the forward pass; {hint}");
            Error::ModelOption { option: format!("layer {layer:?}"), why }
        })
    };
    layers.iter().map(find).collect()
}
