//! Datasets of decoded images in memory.
use super::dataset::{Dataset, SampleImage};
use super::image::Image;
use crate::{Error, Result};
use std::sync::Arc;

/// Dataset of decoded images in memory, of one or several sizes.
#[derive(Clone, Debug)]
pub struct InMemoryDataset {
    /// Pixels of all images, one after the other.
    pixels: Vec<u8>,
    /// Index in `pixels` one past the end of each image.
    ends: Vec<usize>,
    sizes: Sizes,
    targets: Vec<u32>,
    classes: Arc<[String]>,
    name: String,
}

/// Heights, widths and channels.
#[derive(Clone, Debug)]
enum Sizes {
    Uniform([usize; 3]),
    Varied(Vec<[u32; 3]>),
}

impl InMemoryDataset {
    /// Creates a dataset from images, their targets and the class names. Errors if the counts differ or a target is out of range.
    pub fn new(
        images: impl IntoIterator<Item = Image>,
        targets: Vec<u32>,
        classes: Vec<String>,
    ) -> Result<InMemoryDataset> {
        let (mut pixels, mut ends, mut sizes) = (vec![], vec![], vec![]);
        for image in images {
            pixels.extend_from_slice(&image.pixels);
            ends.push(pixels.len());
            sizes.push(image.size.map(|extent| extent as u32));
        }
        let uniform = sizes.first().copied().filter(|first| sizes.iter().all(|size| size == first));
        let sizes = match uniform {
            Some(size) => Sizes::Uniform(size.map(|extent| extent as usize)),
            None => Sizes::Varied(sizes),
        };
        InMemoryDataset { pixels, ends, sizes, targets, classes: classes.into(), name: "memory".into() }
            .checked()
    }

    /// Creates a dataset of images of one size: u8 `[n, h, w, c]`. `name` is their location for messages.
    pub fn uniform(
        pixels: Vec<u8>,
        size: [usize; 3],
        targets: Vec<u32>,
        classes: Arc<[String]>,
        name: &str,
    ) -> Result<InMemoryDataset> {
        let length = size.iter().product::<usize>().max(1);
        let ends = (1..=pixels.len() / length).map(|i| i * length).collect();
        InMemoryDataset { pixels, ends, sizes: Sizes::Uniform(size), targets, classes, name: name.into() }
            .checked()
    }

    /// Height, width and channels of all images, if they are the same.
    pub fn image_size(&self) -> Option<[usize; 3]> {
        match &self.sizes {
            Sizes::Uniform(size) => Some(*size),
            Sizes::Varied(_) => None,
        }
    }

    fn checked(self) -> Result<InMemoryDataset> {
        if self.ends.len() != self.targets.len() {
            let what = format!("{} images but {} targets", self.ends.len(), self.targets.len());
            return Err(Error::data(what).at(&self.name).remedy("pass one target per image"));
        }
        check_targets(&self.targets, self.classes.len(), &self.name)?;
        Ok(self)
    }
}

/// Checks that every target is below the number of classes; `location` is for the error.
pub(crate) fn check_targets(targets: &[u32], classes: usize, location: &str) -> Result<()> {
    match targets.iter().position(|target| *target as usize >= classes) {
        None => Ok(()),
        Some(i) => Err(Error::data(format!("label {i} is out of range"))
            .at(location)
            .because(format!("it is {}; the classes are 0 to {}", targets[i], classes.saturating_sub(1)))
            .remedy("check that the file belongs to this dataset, or choose another with --dataset")),
    }
}

impl Dataset for InMemoryDataset {
    fn len(&self) -> usize {
        self.targets.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn target(&self, index: usize) -> u32 {
        self.targets[index]
    }

    fn image(&self, index: usize) -> Result<SampleImage<'_>> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        let size = match &self.sizes {
            Sizes::Uniform(size) => *size,
            Sizes::Varied(sizes) => sizes[index].map(|extent| extent as usize),
        };
        let pixels = self.pixels[start..self.ends[index]].to_vec();
        Ok(SampleImage::Decoded(Image { size, pixels }))
    }

    fn location(&self, index: usize) -> String {
        format!("{}, image {index}", self.name)
    }

    fn crc32c(&self) -> u32 {
        let sum = crc32c::crc32c(&self.pixels);
        self.targets.iter().fold(sum, |sum, target| crc32c::crc32c_append(sum, &target.to_le_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["a".into(), "b".into()]
    }

    #[test]
    fn images_of_several_sizes_keep_their_pixels_and_targets() {
        let images =
            [Image { size: [1, 2, 1], pixels: vec![1, 2] }, Image { size: [1, 1, 3], pixels: vec![3, 4, 5] }];
        let dataset = InMemoryDataset::new(images.clone(), vec![1, 0], names()).expect("valid");
        assert_eq!((dataset.len(), dataset.image_size(), dataset.target(0)), (2, None, 1));
        for (index, image) in images.into_iter().enumerate() {
            assert_eq!(dataset.image(index).expect("in memory"), SampleImage::Decoded(image));
        }
        let other = InMemoryDataset::new([], vec![], names()).expect("valid");
        assert!(other.is_empty() && other.crc32c() != dataset.crc32c());
    }

    #[test]
    fn wrong_counts_and_targets_are_rejected() {
        let uniform = |targets: Vec<u32>| {
            InMemoryDataset::uniform(vec![0; 6], [1, 2, 1], targets, names().into(), "labels")
        };
        assert_eq!(uniform(vec![0, 1, 1]).expect("valid").image_size(), Some([1, 2, 1]));
        let error = uniform(vec![0, 1]).expect_err("two targets").to_string();
        assert!(error.contains("3 images but 2 targets"), "{error}");
        let error = uniform(vec![0, 1, 3]).expect_err("3 is too high").to_string();
        assert!(error.contains("label 2 is out of range") && error.contains("it is 3"), "{error}");
    }
}
