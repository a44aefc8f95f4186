//! Augmentation of a run.
use super::Recipe;
use super::input::InputConfig;
use crate::augment::mixup::{MixupMode, MixupOptions};
use crate::augment::random_erasing::RandomErasingOptions;
use crate::augment::{TrainCropMode, TrainInterpolation, TransformOptions};
use crate::loader::BatchAugmentation;
use crate::settings::{DefaultSet, EraseModeArg, Settings};
use crate::{Error, Result};

/// Scale and ratio that timm's train.py passes in every crop mode.
const TIMM_SCALE: [f64; 2] = [0.08, 1.0];
const TIMM_RATIO: [f64; 2] = [0.75, 4.0 / 3.0];
/// Pixels of `--train-crop-mode shift` for datasets whose recipe does not shift: the usual padding of CIFAR's recipes.
const DEFAULT_SHIFT: u32 = 4;

/// Augmentation configuration: everything but the size, the colours and the number of classes, which depend on the dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct AugmentConfig {
    transform: TransformOptions,
    mixup: Option<MixupOptions>,
    erasing: Option<RandomErasingOptions>,
    /// Views of test-time augmentation; 1 for none.
    pub tta: usize,
}

impl AugmentConfig {
    /// Resolves the settings. Errors on contradictions.
    pub(super) fn new(
        given: &Settings,
        recipe: &Recipe,
        smoothing: f64,
        batch_size: u32,
    ) -> Result<AugmentConfig> {
        let splits = given.aug_splits.unwrap_or(0) as usize;
        let crop = given.train_crop_mode.unwrap_or(recipe.crop);
        let is_timm = given.defaults == Some(DefaultSet::Timm) && crop != TrainCropMode::Shift;
        // The recipe's jitter is timm's, which a policy replaces.
        let jitter = given.color_jitter.clone().unwrap_or_else(|| recipe.color_jitter.to_vec());
        let transform = TransformOptions {
            no_aug: given.no_aug.unwrap_or(false),
            train_crop_mode: crop,
            scale: given.scale.as_deref().map(pair).or(is_timm.then_some(TIMM_SCALE)),
            ratio: given.ratio.as_deref().map(pair).or(is_timm.then_some(TIMM_RATIO)),
            hflip: given.hflip.unwrap_or(recipe.hflip),
            vflip: given.vflip.unwrap_or(0.0),
            color_jitter: jitter.iter().map(|factor| *factor as f32).collect(),
            color_jitter_prob: given.color_jitter_prob,
            grayscale_prob: given.grayscale_prob.unwrap_or(0.0),
            gaussian_blur_prob: given.gaussian_blur_prob.unwrap_or(0.0),
            auto_augment: given.aa.clone(),
            interpolation: given.train_interpolation.unwrap_or(TrainInterpolation::Random),
            num_aug_splits: splits,
            shift: match (crop, given.shift) {
                (_, Some(shift)) => shift,
                // A crop mode that the user chooses shifts, also where the recipe's does not.
                (TrainCropMode::Shift, None) if given.train_crop_mode.is_some() && recipe.shift == 0 => {
                    DEFAULT_SHIFT
                }
                (TrainCropMode::Shift, None) => recipe.shift,
                _ => 0,
            },
            ..TransformOptions::default()
        };
        let mixup = given.is_mixing().then(|| MixupOptions {
            mixup_alpha: given.mixup.unwrap_or(0.0),
            cutmix_alpha: given.cutmix.unwrap_or(0.0),
            cutmix_minmax: given.cutmix_minmax.as_deref().map(pair),
            prob: given.mixup_prob.unwrap_or(1.0),
            switch_prob: given.mixup_switch_prob.unwrap_or(0.5),
            mode: given.mixup_mode.unwrap_or(MixupMode::Batch),
            off_epoch: given.mixup_off_epoch.unwrap_or(0),
            label_smoothing: smoothing,
            ..MixupOptions::default()
        });
        if let Some(mixup) = &mixup {
            mixup.check(batch_size as usize)?;
            if splits > 1 {
                return Err(Error::usage("--mixup and --cutmix do not work with --aug-splits")
                    .because("the splits of an image must keep its target")
                    .remedy("use one of them"));
            }
        }
        let erasing = given.reprob.filter(|p| *p > 0.0).map(|prob| RandomErasingOptions {
            prob,
            mode: given.remode.unwrap_or(EraseModeArg::Pixel).into(),
            count: given.recount.unwrap_or(1) as usize,
            // As in timm, without augmentation splits the first half of a batch is not erased.
            num_splits: if given.resplit == Some(true) { splits.max(2) } else { 0 },
            ..RandomErasingOptions::default()
        });
        if let Some(erasing) = &erasing {
            erasing.check()?;
        }
        let tta = given.tta.unwrap_or(0).max(1) as usize;
        Ok(AugmentConfig { transform, mixup, erasing, tta })
    }

    /// The training transform's options for an input. As in timm's `train.py`, `--no-aug` resizes with the filter of the evaluation.
    pub fn transform(&self, input: &InputConfig) -> TransformOptions {
        let options = self.transform.clone();
        let interpolation = match options.no_aug {
            true => TrainInterpolation::Fixed(input.filter),
            false => options.interpolation,
        };
        TransformOptions { size: input.size, mean: input.statistics.mean.clone(), interpolation, ..options }
    }

    /// True if images are mixed with others of their batch.
    pub fn is_mixing(&self) -> bool {
        self.mixup.is_some()
    }

    /// Chooses between mixup and CutMix for each pair of images where one choice would hold for the whole batch.
    pub fn mix_by_pair(&mut self) {
        if let Some(mixup) = self.mixup.as_mut().filter(|mixup| mixup.mode == MixupMode::Batch) {
            mixup.mode = MixupMode::Pair;
        }
    }

    /// Mixing and erasing of batches; `None` if there is neither.
    pub fn batch_augmentation(&self, num_classes: usize) -> Option<BatchAugmentation> {
        let mixup = self.mixup.clone().map(|mixup| MixupOptions { num_classes, ..mixup });
        let erasing = self.erasing.clone().unwrap_or_default();
        (mixup.is_some() || self.erasing.is_some()).then_some(BatchAugmentation { mixup, erasing })
    }

    /// Content of erased boxes.
    pub fn erase_mode(&self) -> fornax_engine::EraseMode {
        self.erasing.as_ref().map(|erasing| erasing.mode).unwrap_or_default()
    }

    /// Resolved settings, without those that have no effect.
    pub(super) fn resolved(&self, given: &Settings) -> Settings {
        let transform = &self.transform;
        let augments = !transform.no_aug;
        let shifts = augments && transform.train_crop_mode == TrainCropMode::Shift;
        let jitters = transform.auto_augment.as_ref().is_none_or(|policy| policy.allows_color_jitter());
        let jitter: Vec<f64> = match &given.color_jitter {
            Some(factors) => factors.clone(),
            None => transform.color_jitter.iter().map(|f| (f64::from(*f) * 1e6).round() / 1e6).collect(),
        };
        Settings {
            no_aug: Some(transform.no_aug),
            train_crop_mode: augments.then_some(transform.train_crop_mode),
            scale: given.scale.clone(),
            ratio: given.ratio.clone(),
            hflip: augments.then_some(transform.hflip),
            vflip: augments.then_some(transform.vflip),
            shift: shifts.then_some(transform.shift),
            color_jitter: (augments && jitters && !jitter.is_empty()).then_some(jitter),
            color_jitter_prob: given.color_jitter_prob,
            grayscale_prob: given.grayscale_prob,
            gaussian_blur_prob: given.gaussian_blur_prob,
            aa: given.aa.clone(),
            aug_splits: given.aug_splits,
            reprob: given.reprob,
            remode: self.erasing.as_ref().map(|_| given.remode.unwrap_or(EraseModeArg::Pixel)),
            recount: self.erasing.as_ref().map(|erasing| erasing.count as u32),
            resplit: given.resplit,
            mixup: given.mixup,
            cutmix: given.cutmix,
            cutmix_minmax: given.cutmix_minmax.clone(),
            mixup_prob: given.mixup_prob,
            mixup_switch_prob: given.mixup_switch_prob,
            mixup_mode: given.mixup_mode,
            mixup_off_epoch: given.mixup_off_epoch,
            train_interpolation: augments.then_some(transform.interpolation),
            tta: given.tta,
            ..Settings::default()
        }
    }
}

/// The two numbers of a range.
fn pair(values: &[f64]) -> [f64; 2] {
    [values[0], values[values.len() - 1]]
}
