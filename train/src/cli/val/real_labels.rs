//! `--real-labels`: the labels of "Are we done with ImageNet?", with several valid classes for an image, or none.
use crate::data::Dataset;
use crate::error::ErrorKind;
use crate::trainer::Evaluation;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Prefix of the images' names.
const PREFIX: &str = "ILSVRC2012_val_";

/// Valid classes of each image of ImageNet's validation split, in the order of the images' numbers.
pub struct RealLabels {
    path: PathBuf,
    labels: Vec<Vec<u32>>,
}

/// Accuracy with ReaL labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RealAccuracy {
    /// Images with labels; the others do not count.
    pub images: usize,
    /// Percentage of images whose most probable class is a label.
    pub top1: f64,
    /// Percentage of images with a label among the five most probable classes.
    pub top5: f64,
}

impl RealLabels {
    /// Reads a JSON list with a list of classes for each image.
    pub fn read(path: &Path) -> Result<RealLabels> {
        let what = "the ReaL labels cannot be read";
        let text = std::fs::read(path).map_err(|e| Error::unreadable(ErrorKind::Usage, what, path, &e))?;
        let labels = serde_json::from_slice(&text).map_err(|why| {
            Error::usage(what)
                .at_path(path)
                .because(why)
                .remedy("pass real.json: a list with the list of valid classes of each image")
        })?;
        Ok(RealLabels { path: path.into(), labels })
    }

    /// The labels of each sample of a dataset, found by the names of the image files.
    pub fn of_dataset(&self, dataset: &dyn Dataset) -> Result<Vec<&[u32]>> {
        let fail = |location: &str, why: String| {
            Error::usage("the ReaL labels do not fit the dataset")
                .at(location)
                .because(why)
                .remedy("evaluate the images of ImageNet's validation split under their original names")
        };
        let labels = |index: usize| {
            let location = dataset.location(index);
            let number = image_number(&location).ok_or_else(|| {
                fail(&location, format!("the image is not named {PREFIX}NNNNNNNN, with the image's number"))
            })?;
            let found = number.checked_sub(1).and_then(|position| self.labels.get(position));
            found.map(Vec::as_slice).ok_or_else(|| {
                fail(&location, format!("{} has labels of {} images", self.path.display(), self.labels.len()))
            })
        };
        (0..dataset.len()).map(labels).collect()
    }
}

/// Number of an image from its location, such as `val/n01440764/ILSVRC2012_val_00000293.JPEG` or `val.tar: ILSVRC2012_val_00000293.JPEG`.
fn image_number(location: &str) -> Option<usize> {
    let name = location.rsplit(['/', '\\', ' ']).next()?;
    let number = name.strip_prefix(PREFIX)?.split('.').next()?;
    let is_number = number.len() == 8 && number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse().ok().filter(|_| is_number)
}

/// Accuracy of an evaluation, from the labels of each sample of the dataset. `class` returns the model's class of a logit.
pub fn accuracy(
    labels: &[&[u32]],
    evaluation: &Evaluation,
    class: impl Fn(u32) -> u32,
) -> Result<RealAccuracy> {
    let (mut images, mut right) = (0, [0; 2]);
    for (position, predictions) in evaluation.top5_classes.iter().enumerate() {
        let valid = labels[evaluation.dataset_index(position)];
        if valid.is_empty() {
            continue;
        }
        images += 1;
        let first_right = predictions.iter().position(|logit| valid.contains(&class(*logit)));
        right[0] += usize::from(first_right == Some(0));
        right[1] += usize::from(first_right.is_some());
    }
    if images == 0 {
        return Err(Error::usage("no image of the dataset has ReaL labels").at("--real-labels"));
    }
    let [top1, top5] = right.map(|right| 100.0 * right as f64 / images as f64);
    Ok(RealAccuracy { images, top1, top5 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_numbers_are_found_in_locations() {
        for (location, number) in [
            ("val/n01440764/ILSVRC2012_val_00000293.JPEG", Some(293)),
            ("ILSVRC2012_val_00050000.png", Some(50_000)),
            ("a b/val.tar: ILSVRC2012_val_00000001.JPEG", Some(1)),
            ("val/ILSVRC2012_val_1.JPEG", None),
            ("val/ILSVRC2012_val_+0000001.JPEG", None),
            ("val/ILSVRC2012_val_00000001/cat.jpg", None),
        ] {
            assert_eq!(image_number(location), number, "{location}");
        }
    }

    /// timm's `RealLabelsImagenet` on the same predictions: 1 of 3 and 2 of 3 images.
    #[test]
    fn accuracy_counts_images_with_labels() {
        let evaluation = Evaluation {
            loss: 0.0,
            top1: 0.0,
            top5: 0.0,
            classes: 8,
            targets: vec![0; 4],
            predictions: vec![1, 2, 3, 4],
            confidences: vec![1.0; 4],
            top5_classes: vec![
                vec![1, 0, 2, 3, 4],
                vec![2, 1, 3, 4, 5],
                vec![3, 1, 2, 4, 5],
                vec![4, 0, 1, 2, 3],
            ],
            // The first image of the dataset is bad.
            skipped: vec![0],
        };
        let labels: [&[u32]; 5] = [&[7], &[6, 1], &[5, 6], &[], &[7]];
        let expected = RealAccuracy { images: 3, top1: 100.0 / 3.0, top5: 200.0 / 3.0 };
        assert_eq!(accuracy(&labels, &evaluation, |class| class).expect("labels"), expected);
        let reversed = accuracy(&labels, &evaluation, |class| 7 - class).expect("labels");
        assert_eq!(reversed, RealAccuracy { images: 3, top1: 200.0 / 3.0, top5: 100.0 });
        let none: [&[u32]; 5] = [&[]; 5];
        assert!(accuracy(&none, &evaluation, |class| class).is_err());
    }
}
