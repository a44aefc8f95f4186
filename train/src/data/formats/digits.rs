//! Handwritten digits included in the program, and their split into training and validation.
use super::idx;
use crate::Result;
use crate::data::DatasetSubset;
use crate::data::dataset::Dataset;
use crate::data::in_memory::InMemoryDataset;
use crate::data::subset::choose;
use std::path::Path;
use std::sync::Arc;

const IMAGES: &[u8] = include_bytes!("../../../assets/digits/images-idx3-ubyte.gz");
const LABELS: &[u8] = include_bytes!("../../../assets/digits/labels-idx1-ubyte.gz");

/// Maximum pixel value.
pub const MAX_VALUE: u8 = 16;

/// Reads all 1,797 images of 8x8 pixels, in their published order.
pub fn read(classes: &[&str]) -> Result<InMemoryDataset> {
    let name = Path::new("the included digits");
    idx::read_pair(IMAGES, name, LABELS, name, classes.iter().map(|class| class.to_string()).collect())
}

/// Training and validation split.
pub fn open(classes: &[&str]) -> Result<[Arc<dyn Dataset>; 2]> {
    let all: Arc<dyn Dataset> = Arc::new(read(classes)?);
    let (train, validation) = split(&*all);
    Ok([train, validation]
        .map(|indices| Arc::new(DatasetSubset::new(all.clone(), indices)) as Arc<dyn Dataset>))
}

/// Indices for training and for validation. A fifth of each class is for validation. The choice does not depend on the run's seed, so that
/// results of different runs are comparable.
fn split(digits: &dyn Dataset) -> (Vec<usize>, Vec<usize>) {
    let (validation, train) = choose(digits, "digits/held-back", |members| (members + 2) / 5);
    (train, validation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{SampleImage, registry};

    fn labels() -> Vec<u32> {
        let digits = read(registry::DIGITS).expect("embedded");
        (0..digits.len()).map(|index| digits.target(index)).collect()
    }

    #[test]
    fn included_digits_are_complete() {
        let digits = read(registry::DIGITS).expect("embedded");
        assert_eq!((digits.len(), digits.image_size()), (1797, Some([8, 8, 1])));
        let largest = |index| match digits.image(index).expect("in memory") {
            SampleImage::Decoded(image) => image.pixels.into_iter().max(),
            SampleImage::Encoded(_) => None,
        };
        assert_eq!((0..digits.len()).filter_map(largest).max(), Some(MAX_VALUE));
        let labels = labels();
        let counts: Vec<usize> = (0..10).map(|c| labels.iter().filter(|l| **l == c).count()).collect();
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    }

    #[test]
    fn split_is_a_stratified_partition() {
        let labels = labels();
        let (train, validation) = split(&read(registry::DIGITS).expect("embedded"));
        let mut all = [train.clone(), validation.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..1797).collect::<Vec<_>>());
        for class in 0..10 {
            let members = labels.iter().filter(|l| **l == class).count() as f64;
            let held_out = validation.iter().filter(|i| labels[**i] == class).count() as f64;
            assert!((held_out - members / 5.0).abs() <= 0.5, "class {class}: {held_out} of {members}");
        }
        // Pinned: results of different versions are comparable only with the same split.
        assert_eq!((train.len(), validation.len()), (1438, 359));
    }
}
