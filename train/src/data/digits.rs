//! The handwritten digits that come with the program, and their held-back fifth.
use super::{Images, idx};
use crate::Result;
use fornax_engine::random::{Permutation, RngKey};
use std::path::Path;

const IMAGES: &[u8] = include_bytes!("../../assets/digits/images-idx3-ubyte.gz");
const LABELS: &[u8] = include_bytes!("../../assets/digits/labels-idx1-ubyte.gz");

/// The value of full ink.
pub const WHITE: u8 = 16;

/// All 1,797 images of 8x8 pixels, in their published order.
pub fn read() -> Result<Images> {
    let name = Path::new("the digits within the program");
    idx::pair(IMAGES, name, LABELS, name)
}

/// Positions for training and for validation: of each class a fifth is held back, chosen by a keyed permutation that is
/// the same whatever the run's seed, so that results of different runs compare.
pub fn split(labels: &[u8]) -> (Vec<usize>, Vec<usize>) {
    let (mut train, mut validation) = (vec![], vec![]);
    for class in 0..10u8 {
        let members: Vec<usize> = (0..labels.len()).filter(|i| labels[*i] == class).collect();
        let order =
            Permutation::new(members.len() as u64, RngKey::new(0, "digits/held-back"), u32::from(class));
        let held_back = (members.len() + 2) / 5;
        for position in 0..members.len() {
            let chosen = members[order.get(position as u64) as usize];
            if position < held_back { validation.push(chosen) } else { train.push(chosen) }
        }
    }
    train.sort_unstable();
    validation.sort_unstable();
    (train, validation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digits_are_whole() {
        let digits = read().expect("embedded");
        assert_eq!((digits.len(), digits.size), (1797, [8, 8, 1]));
        assert_eq!(digits.pixels.iter().max(), Some(&WHITE));
        let counts: Vec<usize> = (0..10).map(|c| digits.labels.iter().filter(|l| **l == c).count()).collect();
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    }

    #[test]
    fn the_split_is_a_stratified_partition() {
        let labels = read().expect("embedded").labels;
        let (train, validation) = split(&labels);
        let mut all = [train.clone(), validation.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..1797).collect::<Vec<_>>());
        for class in 0..10 {
            let members = labels.iter().filter(|l| **l == class).count() as f64;
            let held = validation.iter().filter(|i| labels[**i] == class).count() as f64;
            assert!((held - members / 5.0).abs() <= 0.5, "class {class}: {held} of {members}");
        }
        // Pinned: results of different versions compare only while the same images are held back.
        assert_eq!((train.len(), validation.len()), (1438, 359));
    }
}
