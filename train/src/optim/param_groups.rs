//! Parameter groups: weight decay and layer-wise learning-rate decay.
use super::Parameter;
use fornax_engine::Tensor;
use fornax_nn::models::{MATCH_PREV_GROUP, Model};
use fornax_nn::named_parameters;
use std::collections::BTreeSet;

/// Options of parameter groups.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParamGroupOptions {
    /// Weight decay. It skips biases, one-dimensional parameters, and the model's `no_weight_decay` names.
    pub weight_decay: f64,
    /// Layer-wise learning-rate decay.
    pub layer_decay: Option<LayerDecay>,
}

/// Layer-wise learning-rate decay: a factor from each layer to the one before it (Bao et al., "BEiT", 2022).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerDecay {
    /// Decay factor per layer.
    pub decay: f64,
    /// Minimum learning-rate scale.
    pub min_scale: f64,
    /// Layers with a scale below this are frozen.
    pub no_opt_scale: Option<f64>,
}

/// Parameters with the same weight decay and learning-rate scale.
#[derive(Clone, Debug)]
pub struct ParamGroup {
    /// Weight decay.
    pub weight_decay: f64,
    /// Multiplier of the learning rate.
    pub lr_scale: f64,
    /// The parameters in the model's order.
    pub parameters: Vec<Parameter>,
}

/// The trained parameters of a model, in its order. Adaptive clipping skips the model's last two parameters, which are assumed to be the
/// classifier's.
pub fn parameters(model: &dyn Model, options: &ParamGroupOptions) -> Vec<Parameter> {
    with_layer_ids(model, options).into_iter().map(|(_, parameter)| parameter).collect()
}

/// The trained parameters in groups. Without layer decay, the group without weight decay comes first; with it, groups are in the order
/// of their first parameters.
pub fn param_groups(model: &dyn Model, options: &ParamGroupOptions) -> Vec<ParamGroup> {
    let mut groups: Vec<(usize, ParamGroup)> = vec![];
    for (depth, parameter) in with_layer_ids(model, options) {
        let Parameter { weight_decay, lr_scale, .. } = parameter;
        let alike = |(d, g): &&mut (usize, ParamGroup)| *d == depth && g.weight_decay == weight_decay;
        match groups.iter_mut().find(alike) {
            Some((_, group)) => group.parameters.push(parameter),
            None => groups.push((depth, ParamGroup { weight_decay, lr_scale, parameters: vec![parameter] })),
        }
    }
    if options.layer_decay.is_none() {
        groups.sort_by(|a, b| a.1.weight_decay.total_cmp(&b.1.weight_decay));
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Each trained parameter with its layer id, which is 0 without layer decay.
fn with_layer_ids(model: &dyn Model, options: &ParamGroupOptions) -> Vec<(usize, Parameter)> {
    let all = named_parameters(model);
    let layer_ids = layer_ids(model, all.iter().map(|(name, _)| name.as_str()));
    let last = layer_ids.iter().copied().max().unwrap_or(0);
    let head = all.len().saturating_sub(2);
    let excluded = |name: &str| model.no_weight_decay().iter().any(|end| name.ends_with(end));
    let to_parameter = |(i, (name, tensor)): (usize, (String, Tensor))| {
        let decays = tensor.rank() > 1 && !name.ends_with(".bias") && !excluded(&name);
        let weight_decay = if decays { options.weight_decay } else { 0.0 };
        let plain = Parameter { weight_decay, adaptive_clip: i < head, ..Parameter::new(name, tensor) };
        let Some(LayerDecay { decay, min_scale, no_opt_scale }) = options.layer_decay else {
            return Some((0, plain));
        };
        let lr_scale = decay.powi((last - layer_ids[i]) as i32).max(min_scale);
        let trained = no_opt_scale.is_none_or(|least| lr_scale >= least);
        trained.then_some((layer_ids[i], Parameter { lr_scale, ..plain }))
    };
    all.into_iter().enumerate().filter_map(to_parameter).collect()
}

/// The layer id of each parameter, counted from the input.
fn layer_ids<'a>(model: &dyn Model, names: impl Iterator<Item = &'a str>) -> Vec<usize> {
    let layer_groups: Vec<Option<Vec<usize>>> = names.map(|name| model.layer_group(name)).collect();
    let sorted: BTreeSet<&Vec<usize>> = layer_groups.iter().flatten().collect();
    let joins = |group: &Vec<usize>| group.last() == Some(&MATCH_PREV_GROUP);
    let layers = |upto: Option<&Vec<usize>>| {
        sorted.iter().filter(|group| !joins(group) && upto.is_none_or(|upto| **group <= upto)).count()
    };
    // Parameters outside of any layer group come last.
    layer_groups
        .iter()
        .map(|group| group.as_ref().map_or(layers(None) + 1, |p| layers(Some(p))) - 1)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_nn::{ModelOptions, create_model};

    #[test]
    fn min_scale_bounds_and_no_opt_scale_freezes() {
        let model = create_model("resnet18", &ModelOptions::classes(3)).expect("a model");
        let options = |min_scale, no_opt_scale| ParamGroupOptions {
            weight_decay: 0.1,
            layer_decay: Some(LayerDecay { decay: 0.5, min_scale, no_opt_scale }),
        };
        let floored = param_groups(&*model, &options(0.2, None));
        assert_eq!(floored[0].lr_scale, 0.2);
        assert_eq!(floored.last().map(|g| g.lr_scale), Some(1.0));
        let few = param_groups(&*model, &options(0.0, Some(0.3)));
        let names: Vec<&str> = few.iter().flat_map(|g| &g.parameters).map(|p| p.name.as_str()).collect();
        assert!(names.iter().all(|n| n.starts_with("layer4.1") || n.starts_with("fc")), "{names:?}");
        assert_eq!(names.len(), 8);
    }
}
