//! Dataset of an evaluation: the split, with the class indices of the model.
use crate::data::dataset::ImageHead;
use crate::data::{Dataset, DatasetOptions, DatasetSplits, SampleImage};
use crate::error::ErrorKind;
use crate::{Error, Result};
use fornax_engine::random::RngStream;
use std::sync::Arc;

/// Opens a dataset whose validation split is evaluated: as for training, or the whole of a root that is not divided. `classes` are the model's
/// class names, if they are known.
pub fn open(options: &DatasetOptions, classes: Option<&[String]>) -> Result<DatasetSplits> {
    let mut splits = match options.open() {
        Ok(splits) if splits.validation.is_some() => splits,
        Ok(_) if options.val_split.is_none() && options.val_fraction.is_none() => undivided(options)?,
        Ok(splits) => splits,
        // Without a training split.
        Err(error) if error.kind() == ErrorKind::Data => only_split(options).map_err(|_| error)?,
        Err(error) => return Err(error),
    };
    let Some(validation) = splits.validation.take() else {
        return Err(Error::data("the dataset has no validation split")
            .at(&splits.name)
            .remedy("name the split to evaluate with --split"));
    };
    splits.validation = Some(match classes {
        Some(classes) if validation.classes() != classes => {
            Arc::new(Relabelled::new(validation, classes, &splits.name)?)
        }
        _ => validation,
    });
    if let Some(classes) = classes {
        splits.classes = classes.to_vec();
    }
    Ok(splits)
}

/// All images of a root without splits. A root that has only a training split is rejected: the images that a model was trained on say little.
fn undivided(options: &DatasetOptions) -> Result<DatasetSplits> {
    let train = DatasetOptions {
        train_split: Some("train".into()),
        val_split: Some(String::new()),
        ..options.clone()
    };
    if train.open().is_ok() {
        let name = options.root.as_ref().map_or(String::new(), |root| root.display().to_string());
        return Err(Error::data("the dataset has no validation split")
            .at(name)
            .because("it only has a training split")
            .remedy("evaluate that with --split train"));
    }
    as_validation(&DatasetOptions { val_split: Some(String::new()), ..options.clone() })
}

/// The validation split alone.
fn only_split(options: &DatasetOptions) -> Result<DatasetSplits> {
    let split = options.val_split.clone().unwrap_or_else(|| "validation".into());
    as_validation(&DatasetOptions {
        train_split: Some(split),
        val_split: Some(String::new()),
        ..options.clone()
    })
}

/// Opens a dataset with one split, which becomes the validation split.
fn as_validation(options: &DatasetOptions) -> Result<DatasetSplits> {
    let limit = options.val_num_samples;
    let opened =
        DatasetOptions { train_num_samples: limit, val_num_samples: None, ..options.clone() }.open()?;
    Ok(DatasetSplits { validation: Some(opened.train.clone()), ..opened })
}

/// Dataset with the class indices of a model that has other classes too, or the same in another order.
struct Relabelled {
    dataset: Arc<dyn Dataset>,
    classes: Vec<String>,
    /// Class of the model, by class of the dataset.
    class: Vec<u32>,
}

impl Relabelled {
    fn new(dataset: Arc<dyn Dataset>, classes: &[String], name: &str) -> Result<Relabelled> {
        let find = |own: &String| classes.iter().position(|class| class == own).map(|class| class as u32);
        let unknown: Vec<&str> =
            dataset.classes().iter().filter(|own| find(own).is_none()).map(String::as_str).collect();
        if let [first, ..] = unknown[..] {
            let (count, total) = (unknown.len(), dataset.classes().len());
            return Err(Error::data("the dataset has classes that the model was not trained on")
                .at(name)
                .because(format!("{count} of its {total} classes, such as {first:?}, are not among the {} of the checkpoint", classes.len()))
                .remedy("pass a dataset with the classes of the checkpoint, or omit classes with --class-map"));
        }
        let class = dataset.classes().iter().filter_map(find).collect();
        Ok(Relabelled { dataset, classes: classes.to_vec(), class })
    }
}

impl Dataset for Relabelled {
    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn target(&self, index: usize) -> u32 {
        self.class[self.dataset.target(index) as usize]
    }

    fn image(&self, index: usize) -> Result<SampleImage<'_>> {
        self.dataset.image(index)
    }

    fn image_heads(&self, index: usize, limit: usize) -> Result<Vec<ImageHead<'_>>> {
        self.dataset.image_heads(index, limit)
    }

    fn location(&self, index: usize) -> String {
        self.dataset.location(index)
    }

    fn crc32c(&self) -> u32 {
        self.dataset.crc32c()
    }

    fn clip_len(&self) -> usize {
        self.dataset.clip_len()
    }

    fn clip(&self, index: usize, rng: Option<&mut RngStream>) -> Result<Vec<SampleImage<'_>>> {
        self.dataset.clip(index, rng)
    }
}
