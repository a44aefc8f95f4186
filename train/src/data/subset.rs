//! Part of a dataset, in another order.
use super::dataset::{Dataset, ImageHead, SampleImage};
use crate::Result;
use fornax_engine::random::{Permutation, RngKey, RngStream};
use std::sync::Arc;

/// Samples of another dataset, by index.
pub struct DatasetSubset {
    dataset: Arc<dyn Dataset>,
    indices: Vec<usize>,
}

impl DatasetSubset {
    /// Creates a dataset of the samples at `indices`, in that order. Panics if an index is out of range.
    pub fn new(dataset: Arc<dyn Dataset>, indices: Vec<usize>) -> DatasetSubset {
        assert!(indices.iter().all(|index| *index < dataset.len()), "index within the dataset");
        DatasetSubset { dataset, indices }
    }
}

/// The dataset with its samples sorted by class; samples of a class keep their order. Folders, archives and exported datasets have this
/// order too, so that a dataset trains to the same weights in every format.
pub fn sorted_by_class(dataset: Arc<dyn Dataset>) -> Arc<dyn Dataset> {
    if (1..dataset.len()).all(|i| dataset.target(i - 1) <= dataset.target(i)) {
        return dataset;
    }
    let mut indices: Vec<usize> = (0..dataset.len()).collect();
    indices.sort_by_key(|index| dataset.target(*index));
    Arc::new(DatasetSubset::new(dataset, indices))
}

/// Divides a dataset into a training and a validation split: `fraction` of each class is for validation, see [`held_out`]. The choice is
/// keyed and does not depend on the run's seed, so that results of different runs are comparable.
pub fn stratified_split(dataset: Arc<dyn Dataset>, fraction: f64) -> (Arc<dyn Dataset>, Arc<dyn Dataset>) {
    let mut members = vec![0; dataset.classes().len()];
    (0..dataset.len()).for_each(|index| members[dataset.target(index) as usize] += 1);
    let mut counts = held_out(&members, fraction).into_iter();
    let (validation, train) =
        choose(&*dataset, "dataset/validation", |_| counts.next().expect("a count for each class"));
    (Arc::new(DatasetSubset::new(dataset.clone(), train)), Arc::new(DatasetSubset::new(dataset, validation)))
}

/// Number of samples of each class for validation, `fraction` of all in sum. One sample of a class stays for training. Each class of two
/// or more has one for validation if the sum is large enough; otherwise the classes have one in turn, so that a thousand classes of two
/// images do not lose half of them.
fn held_out(members: &[usize], fraction: f64) -> Vec<usize> {
    let can_divide = |members: &&usize| **members > 1;
    let (classes, divisible) = members
        .iter()
        .filter(can_divide)
        .fold((0, 0), |(classes, sum), members| (classes + 1, sum + members));
    let total = ((divisible as f64 * fraction).round() as usize).max(1);
    let least = usize::from(total >= classes);
    // What a class should have beyond `least`; cumulative rounding, so that the parts add up to the whole.
    let weight = |members: usize| match members > 1 {
        true => (members as f64 * fraction - least as f64).max(0.0),
        false => 0.0,
    };
    let all: f64 = members.iter().map(|members| weight(*members)).sum();
    let rest = (total - least * classes.min(total)) as f64;
    let (mut seen, mut taken) = (0.0, 0);
    let part = |members: &usize| {
        seen += weight(*members);
        let until = if all > 0.0 { (rest * seen / all).round() as usize } else { 0 };
        let limit = members.saturating_sub(1 + least);
        let part = until.saturating_sub(taken).min(limit);
        taken += part;
        if *members > 1 { least + part } else { 0 }
    };
    members.iter().map(part).collect()
}

/// `count` samples of a dataset, from each class in proportion to its size; all of them if there are not more.
pub fn limited(dataset: Arc<dyn Dataset>, count: usize) -> Arc<dyn Dataset> {
    let total = dataset.len();
    if count >= total {
        return dataset;
    }
    // Cumulative rounding: the parts add up to the whole.
    let (mut seen, mut taken) = (0, 0);
    let part = |members: usize| {
        seen += members;
        let until = (seen as u128 * count as u128 / total as u128) as usize;
        let part = until - taken;
        taken = until;
        part
    };
    let (chosen, _) = choose(&*dataset, "dataset/num-samples", part);
    Arc::new(DatasetSubset::new(dataset, chosen))
}

/// Indices of `count(members)` samples of each class, chosen by a keyed permutation, and of the others; both ascending.
pub(in crate::data) fn choose(
    dataset: &dyn Dataset,
    purpose: &str,
    mut count: impl FnMut(usize) -> usize,
) -> (Vec<usize>, Vec<usize>) {
    let mut members = vec![vec![]; dataset.classes().len()];
    for index in 0..dataset.len() {
        members[dataset.target(index) as usize].push(index);
    }
    let (mut chosen, mut others) = (vec![], vec![]);
    for (class, members) in members.iter().enumerate() {
        let order = Permutation::new(members.len() as u64, RngKey::new(0, purpose), class as u32);
        let count = count(members.len());
        for position in 0..members.len() {
            let member = members[order.get(position as u64) as usize];
            if position < count { chosen.push(member) } else { others.push(member) }
        }
    }
    chosen.sort_unstable();
    others.sort_unstable();
    (chosen, others)
}

impl Dataset for DatasetSubset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn classes(&self) -> &[String] {
        self.dataset.classes()
    }

    fn target(&self, index: usize) -> u32 {
        self.dataset.target(self.indices[index])
    }

    fn image(&self, index: usize) -> Result<SampleImage<'_>> {
        self.dataset.image(self.indices[index])
    }

    fn image_heads(&self, index: usize, limit: usize) -> Result<Vec<ImageHead<'_>>> {
        self.dataset.image_heads(self.indices[index], limit)
    }

    fn location(&self, index: usize) -> String {
        self.dataset.location(self.indices[index])
    }

    fn crc32c(&self) -> u32 {
        let append = |sum, index: &usize| crc32c::crc32c_append(sum, &(*index as u64).to_le_bytes());
        self.indices.iter().fold(self.dataset.crc32c(), append)
    }

    fn clip_len(&self) -> usize {
        self.dataset.clip_len()
    }

    fn clip(&self, index: usize, rng: Option<&mut RngStream>) -> Result<Vec<SampleImage<'_>>> {
        self.dataset.clip(self.indices[index], rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::InMemoryDataset;

    /// Images of one pixel, whose value is their index.
    fn dataset(targets: &[u32]) -> Arc<dyn Dataset> {
        let pixels = (0..targets.len()).map(|i| i as u8).collect();
        let classes = (0..4).map(|c| c.to_string()).collect();
        let dataset = InMemoryDataset::uniform(pixels, [1, 1, 1], targets.to_vec(), classes, "test");
        Arc::new(dataset.expect("valid"))
    }

    fn pixels(dataset: &dyn Dataset) -> Vec<u8> {
        let pixel = |i| match dataset.image(i).expect("in memory") {
            SampleImage::Decoded(image) => image.pixels[0],
            SampleImage::Encoded(_) => panic!("decoded"),
        };
        (0..dataset.len()).map(pixel).collect()
    }

    #[test]
    fn samples_sorted_by_class_keep_their_order_within_a_class() {
        let sorted = sorted_by_class(dataset(&[2, 0, 2, 1, 0]));
        assert_eq!(pixels(&*sorted), [1, 4, 3, 0, 2]);
        assert_eq!((0..5).map(|i| sorted.target(i)).collect::<Vec<_>>(), [0, 0, 1, 2, 2]);
        assert_eq!(sorted.location(0), "test, image 1");
        assert_ne!(sorted.crc32c(), dataset(&[2, 0, 2, 1, 0]).crc32c());
    }

    #[test]
    fn stratified_split_is_a_partition_with_the_fraction_of_each_class() {
        let targets: Vec<u32> = (0..100).map(|i| if i < 60 { 0 } else { 1 + i % 3 }).collect();
        let (train, validation) = stratified_split(dataset(&targets), 0.2);
        let mut all = [pixels(&*train), pixels(&*validation)].concat();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<u8>>());
        let count = |class| (0..validation.len()).filter(|i| validation.target(*i) == class).count();
        assert_eq!([count(0), count(1), count(2), count(3)], [12, 3, 2, 3]);
        let (again, _) = stratified_split(dataset(&targets), 0.2);
        assert_eq!(pixels(&*again), pixels(&*train));
    }

    #[test]
    fn small_classes_are_held_out_evenly_and_keep_an_image_to_train() {
        // One image in ten of thirty classes of four, spread over the classes.
        let few = held_out(&[4; 30], 0.1);
        assert!(few.iter().sum::<usize>() == 12 && few.iter().all(|count| *count <= 1), "{few:?}");
        assert_eq!(few[..15].iter().sum::<usize>(), 6);
        assert_eq!(held_out(&[20, 4, 3, 1], 0.1), [1, 1, 1, 0]);
        assert_eq!(held_out(&[2; 1000], 0.1).iter().sum::<usize>(), 200);
        assert_eq!(held_out(&[1000; 3], 0.1), [100; 3]);
        assert_eq!(held_out(&[2, 2], 0.1).iter().sum::<usize>(), 1);
        assert_eq!(held_out(&[5, 2, 1], 0.9), [4, 1, 0]);
        assert_eq!(held_out(&[1, 1], 0.5), [0, 0]);
        assert_eq!(held_out(&[0, 10], 0.1), [0, 1]);
    }

    #[test]
    fn limited_dataset_takes_from_every_class() {
        let targets: Vec<u32> = (0..100).map(|i| i / 25).collect();
        let few = limited(dataset(&targets), 10);
        let count = |class| (0..few.len()).filter(|i| few.target(*i) == class).count();
        assert_eq!((few.len(), count(0) + count(1), count(2) + count(3)), (10, 5, 5));
        assert_eq!(limited(dataset(&targets), 1000).len(), 100);
    }
}
