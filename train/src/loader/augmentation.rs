//! Mixup, CutMix and random erasing of batches.
use super::{BatchChanges, BatchTransform, GlobalBatch};
use crate::augment::{MixupOptions, RandomErasingOptions};
use fornax_engine::ImageChange;

/// Mixup or CutMix, and random erasing, of training batches. The choices of mixing are a function of (seed, epoch, batch), the erased boxes
/// of (seed, epoch, sample, split).
#[derive(Clone, Debug, PartialEq)]
pub struct BatchAugmentation {
    /// Mixup and CutMix; `None` for class indices as targets.
    pub mixup: Option<MixupOptions>,
    /// Random erasing.
    pub erasing: RandomErasingOptions,
}

impl BatchTransform for BatchAugmentation {
    fn max_erase_boxes(&self) -> usize {
        if self.erasing.prob > 0.0 { self.erasing.count } else { 0 }
    }

    fn changes(&self, batch: &GlobalBatch) -> Result<BatchChanges, String> {
        let images = batch.samples.len() * batch.views;
        let (mut changes, target) = match &self.mixup {
            None => ((0..images).map(ImageChange::none).collect(), None),
            Some(_) if batch.views > 1 => {
                return Err("augmentation splits cannot be mixed".into());
            }
            Some(mixup) => {
                let mix = mixup.sample(batch.epoch, images, batch.image_size, &mut batch.rng("mixup"));
                let target = mixup.soft_targets(batch.targets, &mix).map_err(|e| e.to_string())?;
                (mix.changes, Some(target))
            }
        };
        if self.erasing.prob > 0.0 {
            let [h, w] = batch.image_size;
            let n = batch.samples.len();
            let first = self.erasing.first_image(images);
            for (image, change) in changes.iter_mut().enumerate().skip(first) {
                let purpose = format!("random erasing/{}", image / n);
                change.erase_boxes = self.erasing.boxes(&mut batch.sample_rng(&purpose, image % n), h, w);
            }
        }
        Ok(BatchChanges { changes, target })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch<'a>(samples: &'a [u64], targets: &'a [i64], views: usize) -> GlobalBatch<'a> {
        GlobalBatch { seed: 1, epoch: 2, index: 3, samples, targets, views, image_size: [32, 32] }
    }

    #[test]
    fn erased_boxes_follow_the_sample_and_spare_the_clean_split() {
        let erasing =
            RandomErasingOptions { prob: 1.0, count: 2, num_splits: 2, ..RandomErasingOptions::default() };
        let augmentation = BatchAugmentation { mixup: None, erasing };
        assert_eq!(augmentation.max_erase_boxes(), 2);
        let boxes = |samples: &[u64]| -> Vec<_> {
            let changes = augmentation.changes(&batch(samples, &[0; 3], 2)).expect("valid");
            assert!(changes.target.is_none());
            changes.changes.into_iter().map(|change| change.erase_boxes).collect()
        };
        let (one, other) = (boxes(&[5, 6, 7]), boxes(&[7, 5, 9]));
        assert_eq!((one.len(), one[..3].iter().all(Vec::is_empty)), (6, true));
        assert_eq!((&one[3], &one[5]), (&other[4], &other[3]), "samples 5 and 7");
        assert_ne!(one[3], one[4]);
    }

    #[test]
    fn mixed_targets_are_probabilities_and_splits_are_not_mixed() {
        let mixup = MixupOptions { mixup_alpha: 0.8, num_classes: 4, ..MixupOptions::default() };
        let augmentation = BatchAugmentation { mixup: Some(mixup), erasing: RandomErasingOptions::default() };
        let changes = augmentation.changes(&batch(&[1, 2], &[0, 3], 1)).expect("even");
        assert_eq!(changes.changes.iter().map(|c| c.partner).collect::<Vec<_>>(), [1, 0]);
        let rows = changes.target.expect("soft").to_vec::<f32>().expect("f32");
        for row in rows.chunks_exact(4) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{row:?}");
        }
        assert!(augmentation.changes(&batch(&[1, 2], &[0, 3], 2)).is_err());
    }
}
