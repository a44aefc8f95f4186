//! Groups of parameters: which of them weight decay leaves alone, and how learning rates fall with the depth.
use fornax_engine::Tensor;
use fornax_nn::models::{Model, WITH_PREVIOUS};
use fornax_nn::named_parameters;
use std::collections::BTreeSet;

/// How parameters are treated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupOptions {
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
pub struct Group {
    /// Their weight decay.
    pub weight_decay: f64,
    /// What the learning rate is multiplied by.
    pub lr_scale: f64,
    /// Names and tensors, in the model's order.
    pub parameters: Vec<(String, Tensor)>,
}

/// The groups of a model's parameters: without layer decay those without weight decay come first; with it, groups come in the order of
/// their first parameters. Parameters that are not to be trained are in none.
pub fn groups(model: &dyn Model, options: &GroupOptions) -> Vec<Group> {
    let all = named_parameters(model);
    let depths = depths(model, all.iter().map(|(name, _)| name.as_str()));
    let last = depths.iter().copied().max().unwrap_or(0);
    let kept_whole = |name: &str| model.no_weight_decay().iter().any(|end| name.ends_with(end));
    let mut groups: Vec<(usize, Group)> = vec![];
    for ((name, tensor), depth) in all.into_iter().zip(depths) {
        let decays = tensor.rank() > 1 && !name.ends_with(".bias") && !kept_whole(&name);
        let weight_decay = if decays { options.weight_decay } else { 0.0 };
        let (depth, lr_scale) = match options.layer_decay {
            None => (0, 1.0),
            Some(LayerDecay { decay, min_scale, no_opt_scale }) => {
                let scale = decay.powi((last - depth) as i32).max(min_scale);
                if no_opt_scale.is_some_and(|least| scale < least) {
                    continue;
                }
                (depth, scale)
            }
        };
        let alike = |(d, g): &&mut (usize, Group)| *d == depth && g.weight_decay == weight_decay;
        match groups.iter_mut().find(alike) {
            Some((_, group)) => group.parameters.push((name, tensor)),
            None => groups.push((depth, Group { weight_decay, lr_scale, parameters: vec![(name, tensor)] })),
        }
    }
    if options.layer_decay.is_none() {
        groups.sort_by(|a, b| a.1.weight_decay.total_cmp(&b.1.weight_decay));
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The layer of each parameter, counted from the input.
fn depths<'a>(model: &dyn Model, names: impl Iterator<Item = &'a str>) -> Vec<usize> {
    let places: Vec<Option<Vec<usize>>> = names.map(|name| model.depth_of(name)).collect();
    let sorted: BTreeSet<&Vec<usize>> = places.iter().flatten().collect();
    let joins = |place: &Vec<usize>| place.last() == Some(&WITH_PREVIOUS);
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
        let options = |min_scale, no_opt_scale| GroupOptions {
            weight_decay: 0.1,
            layer_decay: Some(LayerDecay { decay: 0.5, min_scale, no_opt_scale }),
        };
        let floored = groups(&*model, &options(0.2, None));
        assert_eq!(floored[0].lr_scale, 0.2);
        assert_eq!(floored.last().map(|g| g.lr_scale), Some(1.0));
        let few = groups(&*model, &options(0.0, Some(0.3)));
        let names: Vec<&str> = few.iter().flat_map(|g| &g.parameters).map(|(n, _)| n.as_str()).collect();
        assert!(names.iter().all(|n| n.starts_with("layer4.1") || n.starts_with("fc")), "{names:?}");
        assert_eq!(names.len(), 8);
    }
}
