//! Which models there are, and building one by name.
use super::ModelOptions;
use super::resnet::{self, ResNet};
use crate::{Error, Module, Result};

/// What the zoo says about a model.
#[derive(Clone, Copy, Debug)]
pub struct ModelInfo {
    /// The name to ask for.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Height and width it was designed for.
    pub input_size: [usize; 2],
    /// Its configuration.
    config: &'static resnet::ResNetConfig<'static>,
}

impl ModelInfo {
    /// How many parameters the model has; its weights are not drawn.
    pub fn parameters(&self, options: &ModelOptions) -> Result<usize> {
        let model = ResNet::new(self.config, options)?;
        Ok(crate::named_parameters(&model).iter().map(|(_, tensor)| tensor.numel()).sum())
    }
}

/// Every model, by name.
pub fn models() -> impl Iterator<Item = ModelInfo> {
    resnet::CONFIGS.iter().map(|(name, about, input_size, config)| ModelInfo {
        name,
        about,
        input_size: *input_size,
        config,
    })
}

/// The entry of this name; an error that names the nearest otherwise.
pub fn find(name: &str) -> Result<ModelInfo> {
    models().find(|m| m.name == name).ok_or_else(|| {
        let nearest = models().map(|m| m.name).min_by_key(|m| distance(m, name));
        let hint = match nearest {
            Some(near) if distance(near, name) <= name.len() / 2 => format!("did you mean {near:?}? "),
            _ => String::new(),
        };
        let names: Vec<&str> = models().map(|m| m.name).collect();
        Error::UnknownModel { name: name.into(), hint: format!("{hint}there are: {}", names.join(", ")) }
    })
}

/// Builds a model with fresh weights.
pub fn create_model(name: &str, options: &ModelOptions) -> Result<Box<dyn Module>> {
    let info = find(name)?;
    let model = ResNet::new(info.config, options)?;
    model.init_weights(options.seed)?;
    Ok(Box::new(model))
}

/// Edits (insert, delete, replace) between two names.
fn distance(a: &str, b: &str) -> usize {
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
    use crate::named_parameters;

    #[test]
    fn parameter_counts_are_those_of_the_papers() {
        let count = |name: &str, num_classes, in_chans| -> usize {
            let model = create_model(name, &ModelOptions { num_classes, in_chans, seed: 1 }).expect("builds");
            named_parameters(&*model).iter().map(|(_, t)| t.numel()).sum()
        };
        assert_eq!(count("resnet18", 1000, 3), 11_689_512);
        assert_eq!(count("resnet34", 1000, 3), 21_797_672);
        assert_eq!(count("cifar_resnet18", 10, 3), 11_173_962);
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let Err(error) = create_model("resnet19", &ModelOptions::default()) else { panic!("no such model") };
        assert!(error.to_string().contains("did you mean \"resnet18\"?"), "{error}");
    }

    #[test]
    fn edit_distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
