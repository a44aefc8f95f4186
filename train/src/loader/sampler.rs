//! Order of samples: which samples are in a batch of an epoch, and which of them belong to a rank. Every position is computed in O(1), so
//! an epoch can be entered anywhere.
use fornax_engine::random::{Permutation, RngKey};

/// timm's rounding of the epoch length with repeated augmentation.
const REPEATED_EPOCH_MULTIPLE: usize = 256;

/// Order of the samples of a dataset, for all ranks together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Samples in the dataset.
    pub len: usize,
    /// Samples per batch, over all ranks.
    pub batch_size: usize,
    /// Shuffle, and drop the last incomplete batch. Otherwise samples are in order and the last batch may be smaller.
    pub training: bool,
    /// Seed of the shuffle.
    pub seed: u64,
    /// Number of ranks.
    pub world: usize,
    /// Passes over the dataset in a training epoch.
    pub epoch_repeats: f64,
    /// Successive occurrences of each sample in training (repeated augmentation).
    pub repeats: usize,
    /// Batches of a training epoch, which passes over the dataset as often as they need; `None`: those of `epoch_repeats`.
    pub fixed_batches: Option<usize>,
}

/// Occurrence of a sample in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SampleOccurrence {
    /// Index in the dataset.
    pub index: usize,
    /// Number of the occurrence in the epoch, from 0.
    pub repeat: usize,
}

/// Order of the samples in one epoch.
#[derive(Clone, Debug)]
pub struct EpochOrder {
    sampler: Sampler,
    epoch: u32,
}

impl Sampler {
    /// Batches in an epoch.
    pub fn batches(&self) -> usize {
        match self.training {
            true => self.fixed_batches.unwrap_or(self.positions() / self.batch_size),
            false => self.len.div_ceil(self.batch_size),
        }
    }

    /// Samples in the batches of an epoch, over all ranks.
    pub fn samples(&self) -> usize {
        self.positions().min(self.batches() * self.batch_size)
    }

    /// The order of an epoch.
    pub fn epoch(&self, epoch: u32) -> EpochOrder {
        EpochOrder { sampler: *self, epoch }
    }

    /// The shuffle of a pass over the dataset.
    fn shuffle(&self, epoch: u32, pass: usize) -> Permutation {
        let key = match pass {
            0 => RngKey::new(self.seed, "shuffle"),
            _ => RngKey::new(self.seed, &format!("shuffle/pass {pass}")),
        };
        Permutation::new(self.len as u64, key, epoch)
    }

    /// Positions within a batch of `count` samples that belong to `rank`: every position belongs to one rank.
    ///
    /// In training, if every rank gets the same even number, position `i` and its mirror image `count - 1 - i` belong to the same rank, as
    /// mixup and CutMix combine them; in the rank's batch they are mirror images too. Otherwise a rank has consecutive positions.
    pub fn shard(&self, count: usize, rank: usize) -> Vec<usize> {
        let world = self.world;
        if self.training && count.is_multiple_of(2 * world) {
            let half = count / (2 * world);
            let first = rank * half..(rank + 1) * half;
            return first.clone().chain(first.rev().map(|i| count - 1 - i)).collect();
        }
        (rank * count / world..(rank + 1) * count / world).collect()
    }

    /// Samples in one pass over the dataset.
    fn pass_len(&self) -> usize {
        match self.training && self.repeats > 1 && self.len >= REPEATED_EPOCH_MULTIPLE {
            true => {
                let rounded = self.len / REPEATED_EPOCH_MULTIPLE * REPEATED_EPOCH_MULTIPLE;
                rounded / self.world * self.world
            }
            false => self.len,
        }
    }

    /// Positions in an epoch, before an incomplete batch is dropped.
    fn positions(&self) -> usize {
        match (self.training, self.fixed_batches) {
            (true, Some(batches)) => batches * self.batch_size,
            (true, None) => (self.pass_len() as f64 * self.epoch_repeats) as usize,
            (false, _) => self.len,
        }
    }
}

impl EpochOrder {
    /// The samples of a batch, of all ranks.
    pub fn batch(&self, index: usize) -> Vec<SampleOccurrence> {
        let first = index * self.sampler.batch_size;
        let last = self.sampler.positions().min(first + self.sampler.batch_size);
        if !self.sampler.training {
            return (first..last).map(|index| SampleOccurrence { index, repeat: 0 }).collect();
        }
        let (repeats, pass_len) = (self.sampler.repeats, self.sampler.pass_len().max(1));
        // A batch is within one pass, or passes from one to the next.
        let mut shuffle: Option<(usize, Permutation)> = None;
        let sample = |position: usize| {
            let (pass, position) = (position / pass_len, position % pass_len);
            if shuffle.as_ref().is_none_or(|(of, _)| *of != pass) {
                shuffle = Some((pass, self.sampler.shuffle(self.epoch, pass)));
            }
            let (_, order) = shuffle.as_ref().expect("it was just set");
            let index = order.get((position / repeats) as u64) as usize;
            SampleOccurrence { index, repeat: pass * repeats + position % repeats }
        };
        (first..last).map(sample).collect()
    }
}

impl SampleOccurrence {
    /// Number of this occurrence in a dataset of `len` samples, unique in the epoch: its random numbers depend on it. The first occurrence
    /// of a sample has the sample's index.
    pub fn number(&self, len: usize) -> u64 {
        self.repeat as u64 * len as u64 + self.index as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn sampler(len: usize, batch_size: usize, training: bool, world: usize) -> Sampler {
        Sampler {
            len,
            batch_size,
            training,
            seed: 7,
            world,
            epoch_repeats: 1.0,
            repeats: 1,
            fixed_batches: None,
        }
    }

    /// Samples of a batch on every rank.
    fn sharded(sampler: &Sampler, epoch: u32, index: usize) -> Vec<Vec<SampleOccurrence>> {
        let batch = sampler.epoch(epoch).batch(index);
        (0..sampler.world)
            .map(|rank| sampler.shard(batch.len(), rank).iter().map(|i| batch[*i]).collect())
            .collect()
    }

    #[test]
    fn evaluation_counts_every_sample_once_on_any_number_of_ranks() {
        for len in 1..=200 {
            for world in 1..=8 {
                for batch_size in [1, 7, 24, 300] {
                    let sampler = sampler(len, batch_size, false, world);
                    assert_eq!(sampler.samples(), len);
                    let mut seen = vec![0; len];
                    for batch in 0..sampler.batches() {
                        sharded(&sampler, 0, batch).iter().flatten().for_each(|s| seen[s.index] += 1);
                    }
                    assert!(seen.iter().all(|n| *n == 1), "{len} samples, {world} ranks, {batch_size}");
                }
            }
        }
    }

    #[test]
    fn training_on_any_number_of_ranks_sees_the_same_batches() {
        let (len, batch_size) = (24 * 9 + 5, 24);
        for epoch in 0..2 {
            for index in 0..9 {
                let sorted = |world| {
                    let sampler = sampler(len, batch_size, true, world);
                    assert_eq!(sampler.batches(), 9);
                    let ranks = sharded(&sampler, epoch, index);
                    assert!(ranks.iter().all(|rank| rank.len() == batch_size / world), "{world} ranks");
                    let mut all: Vec<usize> = ranks.iter().flatten().map(|s| s.index).collect();
                    all.sort_unstable();
                    all
                };
                let expected = sorted(1);
                [2, 3, 4, 8].iter().for_each(|world| assert_eq!(sorted(*world), expected, "{world} ranks"));
            }
        }
    }

    #[test]
    fn resume_with_other_numbers_of_ranks_sees_each_sample_once() {
        let (len, batches) = (24 * 8, 8);
        let mut seen = vec![0; len];
        for (index, world) in (0..batches).zip([4, 4, 2, 2, 1, 1, 4, 4]) {
            let sampler = sampler(len, 24, true, world);
            sharded(&sampler, 3, index).iter().flatten().for_each(|s| seen[s.index] += 1);
        }
        assert!(seen.iter().all(|n| *n == 1), "{seen:?}");
    }

    #[test]
    fn mirror_images_are_on_the_same_rank() {
        let sampler = sampler(1000, 24, true, 3);
        for rank in 0..3 {
            let shard = sampler.shard(24, rank);
            assert_eq!(shard.len(), 8);
            for i in 0..8 {
                assert_eq!(shard[i] + shard[7 - i], 23, "{shard:?}");
            }
        }
    }

    #[test]
    fn seek_into_a_long_run_is_immediate() {
        let sampler = sampler(10_000_000, 256, true, 1);
        let started = Instant::now();
        let batches = sampler.batches() as u64;
        let update = 1_000_000u64;
        let samples = sampler.epoch((update / batches) as u32).batch((update % batches) as usize);
        assert_eq!(samples.len(), 256);
        assert!(started.elapsed().as_millis() < 100, "{:?}", started.elapsed());
    }

    #[test]
    fn repeated_samples_have_different_numbers() {
        let repeated = Sampler { repeats: 3, ..sampler(600, 32, true, 2) };
        // 600 rounded down to a multiple of 256.
        assert_eq!((repeated.samples(), repeated.batches()), (512, 16));
        let order = repeated.epoch(1);
        let all: Vec<SampleOccurrence> = (0..16).flat_map(|i| order.batch(i)).collect();
        for group in all.chunks_exact(3) {
            assert!(group.iter().all(|s| s.index == group[0].index), "{group:?}");
            assert_eq!(group.iter().map(|s| s.repeat).collect::<Vec<_>>(), [0, 1, 2]);
        }
        let mut numbers: Vec<u64> = all.iter().map(|s| s.number(600)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 512);
    }

    #[test]
    fn fixed_batches_shorten_an_epoch_or_pass_over_the_dataset_again() {
        let all = sampler(40, 16, true, 1);
        let indices = |sampler: &Sampler| -> Vec<usize> {
            let order = sampler.epoch(3);
            (0..sampler.batches()).flat_map(|i| order.batch(i)).map(|s| s.index).collect()
        };
        let first = indices(&all);
        assert_eq!(first.len(), 32);
        let short = Sampler { fixed_batches: Some(1), ..all };
        assert_eq!((short.batches(), indices(&short)), (1, first[..16].to_vec()));
        let long = Sampler { fixed_batches: Some(5), ..all };
        let found = indices(&long);
        assert_eq!((long.batches(), long.samples(), found.len()), (5, 80, 80));
        assert_eq!(found[..32], first);
        for pass in found.chunks_exact(40) {
            let mut sorted = pass.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..40).collect::<Vec<_>>(), "every pass has every sample");
        }
        assert_ne!(found[..40], found[40..], "each pass has its own order");
    }

    #[test]
    fn repeated_epoch_shuffles_each_pass() {
        let twice = Sampler { epoch_repeats: 2.5, ..sampler(40, 10, true, 1) };
        assert_eq!(twice.samples(), 100);
        let order = twice.epoch(0);
        let all: Vec<usize> = (0..10).flat_map(|i| order.batch(i)).map(|s| s.index).collect();
        assert_ne!(all[..40], all[40..80]);
        for pass in [&all[..40], &all[40..80]] {
            let mut sorted = pass.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..40).collect::<Vec<_>>());
        }
        let mut last = all[80..].to_vec();
        last.sort_unstable();
        last.dedup();
        assert_eq!(last.len(), 20, "no sample twice within a pass");
    }
}
