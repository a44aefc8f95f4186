//! What every model of the zoo can do beside a forward pass.
use crate::layers::ClassifierHead;
use crate::{Context, Error, Module, Result, StateEntry, StateKind, init, layer_names, state_entries};
use fornax_engine::Tensor;
use fornax_engine::random::RngStream;
use std::sync::Arc;

/// A model for classifying images: features, then a head.
pub trait Model: Module {
    /// What the head pools: feature maps `[n, h, w, c]`, or tokens `[n, l, c]`.
    fn forward_features(&self, x: &Tensor, cx: &mut Context) -> fornax_engine::Result<Tensor>;

    /// Logits of features; with `pre_logits` what the classifier would get.
    fn forward_head(
        &self,
        features: &Tensor,
        pre_logits: bool,
        cx: &mut Context,
    ) -> fornax_engine::Result<Tensor>;

    /// The levels of the feature pyramid, from fine to coarse.
    fn feature_info(&self) -> Vec<FeatureInfo>;

    /// The end of the model.
    fn head(&self) -> &ClassifierHead;

    /// The end of the model, to change.
    fn head_mut(&mut self) -> &mut ClassifierHead;

    /// The classifier's dotted name.
    fn classifier_name(&self) -> &'static str;

    /// Gives a parameter its initial value. `fan_in` is how many inputs an output of its layer sums over.
    fn init(&self, parameter: &StateEntry, fan_in: usize, draws: &mut RngStream)
    -> fornax_engine::Result<()>;

    /// Ends of the names of parameters that weight decay leaves alone, beside biases and those of one axis.
    fn no_weight_decay(&self) -> &'static [&'static str] {
        &[]
    }

    /// Where a parameter stands from the input to the head, for learning rates that fall with the depth, as numbers in lexical order: equal ones are
    /// one layer, and what ends with [`WITH_PREVIOUS`] belongs to the layer before. `None`
    /// for what belongs to the last layer.
    fn layer_group(&self, parameter: &str) -> Option<Vec<usize>>;

    /// An observed layer's output as a feature map `[n, h, w, c]`, of an image of the given height and width.
    fn as_map(&self, output: &Tensor, image: [usize; 2]) -> fornax_engine::Result<Tensor> {
        let _ = image;
        Ok(output.clone())
    }
}

/// In [`Model::depth_of`]: as deep as the layer before.
pub const MATCH_PREV_GROUP: usize = 99_999;

/// A level of a feature pyramid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureInfo {
    /// The layer whose output it is.
    pub module: String,
    /// Its channels.
    pub channels: usize,
    /// Pixels of the image to one of the map, along each axis.
    pub reduction: usize,
}

impl FeatureInfo {
    pub(super) fn new(module: impl Into<String>, channels: usize, reduction: usize) -> FeatureInfo {
        FeatureInfo { module: module.into(), channels, reduction }
    }
}

/// Gives every parameter its initial value; each draw follows from the seed and the parameter's name.
pub fn init_weights(model: &dyn Model, seed: u64) -> fornax_engine::Result<()> {
    init_where(model, seed, |_| true)
}

fn init_where(model: &dyn Model, seed: u64, which: impl Fn(&str) -> bool) -> fornax_engine::Result<()> {
    let mut fan_in = 0;
    for parameter in
        state_entries(model).into_iter().filter(|e| e.kind == StateKind::Parameter && which(&e.name))
    {
        if parameter.tensor.rank() > 1 {
            // A layer's bias follows its weight.
            fan_in = parameter.tensor.dims()[1..].iter().product();
        }
        model.init(&parameter, fan_in, &mut init::rng(seed, &parameter.name))?;
    }
    Ok(())
}

impl dyn Model + '_ {
    /// The classifier; none where there are no classes.
    pub fn get_classifier(&self) -> Option<&dyn Module> {
        self.head().classifier()
    }

    /// Channels of the features.
    pub fn num_features(&self) -> usize {
        self.head().channels()
    }

    /// Features that the classifier gets.
    pub fn head_hidden_size(&self) -> usize {
        self.head().features()
    }

    /// A fresh classifier for another number of classes; for 0 none. It is made on the CPU, as a model is.
    pub fn reset_classifier(&mut self, num_classes: usize, seed: u64) -> Result<()> {
        self.head_mut().reset(num_classes)?;
        let prefix = format!("{}.", self.classifier_name());
        Ok(init_where(self, seed, |name| name.starts_with(&prefix))?)
    }

    /// Puts a head of the caller's in the classifier's place; it gets `[n, head_hidden_size]`. `None` for no head.
    pub fn set_classifier(&mut self, classifier: Option<Arc<dyn Module>>) {
        self.head_mut().replace(classifier);
    }

    /// What layers hand on in a forward pass, by their dotted names, in the order asked for.
    pub fn intermediates(&self, x: &Tensor, layers: &[&str], cx: &mut Context) -> Result<Vec<Tensor>> {
        observe(self, layers, cx, |cx| self.forward(x, cx))
    }
}

/// A model seen as a feature pyramid: some of its levels, from fine to coarse.
pub struct FeatureExtractor {
    model: Box<dyn Model>,
    levels: Vec<FeatureInfo>,
}

impl FeatureExtractor {
    /// Of the levels `out_indices` of the model's feature info; negative ones count from the end. None stands for all.
    pub fn new(model: Box<dyn Model>, out_indices: Option<&[isize]>) -> Result<FeatureExtractor> {
        let all = model.feature_info();
        let levels = match out_indices {
            None => all,
            Some(indices) => indices
                .iter()
                .map(|&i| {
                    let index = if i < 0 { i + all.len() as isize } else { i };
                    usize::try_from(index).ok().and_then(|i| all.get(i)).cloned().ok_or_else(|| {
                        let why = format!("there are {} levels", all.len());
                        Error::ModelOption { option: format!("out_indices={i}"), why }
                    })
                })
                .collect::<Result<_>>()?,
        };
        Ok(FeatureExtractor { model, levels })
    }

    /// The levels.
    pub fn feature_info(&self) -> &[FeatureInfo] {
        &self.levels
    }

    /// The model. Its parameters keep their names.
    pub fn model(&self) -> &dyn Model {
        &*self.model
    }

    /// One map `[n, h, w, c]` for each level.
    pub fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Vec<Tensor>> {
        let layers: Vec<&str> = self.levels.iter().map(|level| level.module.as_str()).collect();
        let found = observe(&*self.model, &layers, cx, |cx| self.model.forward_features(x, cx))?;
        let image = [x.dims()[1], x.dims()[2]];
        Ok(found.iter().map(|t| self.model.as_map(t, image)).collect::<fornax_engine::Result<_>>()?)
    }
}

fn observe(
    model: &dyn Model,
    layers: &[&str],
    cx: &mut Context,
    pass: impl FnOnce(&mut Context) -> fornax_engine::Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let all = layer_names(model);
    let mut observing = cx.clone().observing(Some(layers));
    pass(&mut observing)?;
    let seen = observing.observations();
    *cx = observing.ending_observation(cx);
    let find = |layer: &&str| {
        // A layer that runs several times: the last.
        seen.iter().rfind(|o| o.name == **layer).map(|o| o.output.clone()).ok_or_else(|| {
            let near = all.iter().min_by_key(|name| super::registry::distance(name, layer));
            let hint = near.map(|near| format!("did you mean {near:?}?")).unwrap_or_default();
            let why = format!("no layer of this name takes part in the pass; {hint}");
            Error::ModelOption { option: format!("layer {layer:?}"), why }
        })
    };
    layers.iter().map(find).collect()
}
