//! Groups of parameters: which of them weight decay leaves alone, and how learning rates fall with the depth.
use super::Parameter;
use fornax_engine::Tensor;
use fornax_nn::models::{MATCH_PREV_GROUP, Model};
use fornax_nn::named_parameters;
use std::collections::BTreeSet;

/// How parameters are treated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParamGroupOptions {
    /// Weight decay. It skips parameters of one axis, biases, and those that the model names.
    pub weight_decay: f64,
    /// Learning rates by depth.
    pub layer_decay: Option<LayerDecay>,
}

/// Learning rates that fall by a factor from each layer to the one before it (Bao et al., "BEiT", 2022).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerDecay {
    /// The factor.
    pub decay: f64,
    /// No rate is multiplied by less.
    pub min_scale: f64,
    /// What would be multiplied by less is not trained at all.
    pub no_opt_scale: Option<f64>,
}

/// Parameters that are treated alike.
#[derive(Clone, Debug)]
pub struct ParamGroup {
    /// Their weight decay.
    pub weight_decay: f64,
    /// What the learning rate is multiplied by.
    pub lr_scale: f64,
    /// In the model's order.
    pub parameters: Vec<Parameter>,
}

/// The parameters of a model that are to be trained, in its order. Adaptive clipping skips the last two of the model, which are taken
/// for those of the classifier.
pub fn parameters(model: &dyn Model, options: &ParamGroupOptions) -> Vec<Parameter> {
    treated(model, options).into_iter().map(|(_, parameter)| parameter).collect()
}

/// The same in groups: without layer decay those without weight decay come first; with it, groups come in the order of their first
/// parameters.
pub fn param_groups(model: &dyn Model, options: &ParamGroupOptions) -> Vec<ParamGroup> {
    let mut groups: Vec<(usize, ParamGroup)> = vec![];
    for (depth, parameter) in treated(model, options) {
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

/// Each parameter with its layer, which is 0 where layers do not matter.
fn treated(model: &dyn Model, options: &ParamGroupOptions) -> Vec<(usize, Parameter)> {
    let all = named_parameters(model);
    let depths = depths(model, all.iter().map(|(name, _)| name.as_str()));
    let last = depths.iter().copied().max().unwrap_or(0);
    let head = all.len().saturating_sub(2);
    let left_alone = |name: &str| model.no_weight_decay().iter().any(|end| name.ends_with(end));
    let treat = |(i, (name, tensor)): (usize, (String, Tensor))| {
        let decays = tensor.rank() > 1 && !name.ends_with(".bias") && !left_alone(&name);
        let weight_decay = if decays { options.weight_decay } else { 0.0 };
        let plain = Parameter { weight_decay, clips: i < head, ..Parameter::new(name, tensor) };
        let Some(LayerDecay { decay, min_scale, no_opt_scale }) = options.layer_decay else {
            return Some((0, plain));
        };
        let lr_scale = decay.powi((last - depths[i]) as i32).max(min_scale);
        let trained = no_opt_scale.is_none_or(|least| lr_scale >= least);
        trained.then_some((depths[i], Parameter { lr_scale, ..plain }))
    };
    all.into_iter().enumerate().filter_map(treat).collect()
}

/// The layer of each parameter, counted from the input.
fn depths<'a>(model: &dyn Model, names: impl Iterator<Item = &'a str>) -> Vec<usize> {
    let places: Vec<Option<Vec<usize>>> = names.map(|name| model.layer_group(name)).collect();
    let sorted: BTreeSet<&Vec<usize>> = places.iter().flatten().collect();
    let joins = |place: &Vec<usize>| place.last() == Some(&MATCH_PREV_GROUP);
    let layers = |upto: Option<&Vec<usize>>| {
        sorted.iter().filter(|place| !joins(place) && upto.is_none_or(|upto| **place <= upto)).count()
    };
    // What has no place comes after all that have one.
    places.iter().map(|place| place.as_ref().map_or(layers(None) + 1, |p| layers(Some(p))) - 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_nn::{ModelOptions, create_model};

    #[test]
    fn scales_have_a_floor_and_what_lies_below_a_limit_is_not_trained() {
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
