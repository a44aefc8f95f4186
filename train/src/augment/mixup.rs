//! Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019): which images of a batch are mixed, and the soft targets.
//!
//! As in timm, image `i` of a batch of `n` is mixed with image `n - 1 - i`. The pixels are mixed by
//! [`prepare_images`](fornax_engine::Tensor::prepare_images).
use super::RandomSource;
use super::random_resized_crop::image_box;
use crate::{Error, Result};
use clap::ValueEnum;
use fornax_engine::{ImageBox, ImageChange, Tensor};

/// Entries of a batch that share random choices, by timm's name.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MixupMode {
    /// One choice for the batch
    #[default]
    Batch,
    /// One choice for each pair of images
    Pair,
    /// One choice for each image
    Elem,
    /// One choice for each pair, of which the first image is kept: half as many images
    Half,
}

/// Options of mixup and CutMix.
#[derive(Clone, Debug, PartialEq)]
pub struct MixupOptions {
    /// Parameter of mixup's beta distribution; 0 switches mixup off.
    pub mixup_alpha: f64,
    /// Parameter of CutMix's beta distribution; 0 switches CutMix off.
    pub cutmix_alpha: f64,
    /// Smallest and largest side of a CutMix box as a fraction of the image's side. It switches CutMix on, with parameter 1.
    pub cutmix_minmax: Option<[f64; 2]>,
    /// Probability of mixing.
    pub prob: f64,
    /// Probability of CutMix where both are on.
    pub switch_prob: f64,
    /// Entries of a batch that share random choices.
    pub mode: MixupMode,
    /// Epoch from which nothing is mixed; 0 for never.
    pub off_epoch: u32,
    /// Label smoothing of the targets.
    pub label_smoothing: f64,
    /// Number of classes.
    pub num_classes: usize,
}

impl Default for MixupOptions {
    fn default() -> MixupOptions {
        MixupOptions {
            mixup_alpha: 0.0,
            cutmix_alpha: 0.0,
            cutmix_minmax: None,
            prob: 1.0,
            switch_prob: 0.5,
            mode: MixupMode::Batch,
            off_epoch: 0,
            label_smoothing: 0.1,
            num_classes: 1000,
        }
    }
}

/// Random choice of one entry: a batch, a pair or an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixChoice {
    /// Weight of the image itself; 1 if it is not mixed.
    pub lam: f64,
    /// CutMix box, or `None` for mixup.
    pub cutmix_box: Option<ImageBox>,
}

/// Mixing of a batch: one element per result.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchMix {
    /// Changes of the images, without erasing; the sample of each is its index.
    pub changes: Vec<ImageChange>,
    /// Weight of each image's own label; the partner's label has the rest.
    pub target_lams: Vec<f32>,
}

impl MixupOptions {
    /// True if mixup or CutMix is on.
    pub fn is_active(&self) -> bool {
        self.mixup_alpha > 0.0 || self.cutmix_alpha > 0.0 || self.cutmix_minmax.is_some()
    }

    /// Errors if an option is out of range, or the batch size is odd.
    pub fn check(&self, batch_size: usize) -> Result<()> {
        let invalid = |why: String, accepted: &str| {
            Err(Error::usage("invalid options of mixup and CutMix")
                .because(why)
                .remedy(format!("use {accepted}")))
        };
        for (name, p) in [("mixup-prob", self.prob), ("mixup-switch-prob", self.switch_prob)] {
            if !(0.0..=1.0).contains(&p) {
                return invalid(format!("{name} is {p}"), "a probability from 0 to 1");
            }
        }
        for (name, alpha) in [("mixup", self.mixup_alpha), ("cutmix", self.cutmix_alpha)] {
            if !(alpha >= 0.0 && alpha.is_finite()) {
                return invalid(format!("{name} is {alpha}"), "0 or a positive number");
            }
        }
        if let Some([low, high]) = self.cutmix_minmax
            && !(0.0 <= low && low < high && high <= 1.0)
        {
            return invalid(format!("cutmix-minmax is {low} {high}"), "two increasing fractions from 0 to 1");
        }
        if self.is_active() && !batch_size.is_multiple_of(2) {
            let why = format!("image i is mixed with image n - 1 - i, and the batch size is {batch_size}");
            return invalid(why, "an even batch size");
        }
        Ok(())
    }

    /// Samples the mixing of a batch of `n` images of height and width `size` in an epoch.
    pub fn sample(&self, epoch: u32, n: usize, size: [usize; 2], rng: &mut dyn RandomSource) -> BatchMix {
        let on = self.off_epoch == 0 || epoch < self.off_epoch;
        let choices: Vec<MixChoice> = (0..self.mode.entries(n))
            .map(|_| if on { self.sample_choice(size, rng) } else { MixChoice::NONE })
            .collect();
        BatchMix::new(self.mode, n, size, &choices)
    }

    /// Soft targets, f32 `[results, classes]`, of the labels of a whole batch.
    pub fn soft_targets(&self, labels: &[i64], mix: &BatchMix) -> Result<Tensor> {
        let classes = self.num_classes;
        let off = (self.label_smoothing / classes as f64) as f32;
        let on = (1.0 - self.label_smoothing + self.label_smoothing / classes as f64) as f32;
        let mut targets = Vec::with_capacity(mix.changes.len() * classes);
        for ((change, lam), own) in mix.changes.iter().zip(&mix.target_lams).zip(labels) {
            let value = |label: i64, class: usize| if label == class as i64 { on } else { off };
            let partner = labels[change.partner];
            targets.extend(
                (0..classes).map(|class| value(*own, class) * lam + value(partner, class) * (1.0 - lam)),
            );
        }
        Ok(Tensor::from_vec(targets, [mix.changes.len(), classes])?)
    }

    fn sample_choice(&self, size: [usize; 2], rng: &mut dyn RandomSource) -> MixChoice {
        if !rng.chance(self.prob) {
            return MixChoice::NONE;
        }
        let cutmix_alpha = if self.cutmix_minmax.is_some() { 1.0 } else { self.cutmix_alpha };
        let cut = match (self.mixup_alpha > 0.0, cutmix_alpha > 0.0) {
            (true, true) => rng.chance(self.switch_prob),
            (_, cut) => cut,
        };
        let lam = rng.beta(if cut { cutmix_alpha } else { self.mixup_alpha });
        let cutmix_box = cut.then(|| match self.cutmix_minmax {
            Some(range) => bounded_cutmix_box(size, range, rng),
            None => {
                let centre = size.map(|side| rng.integer(0, side - 1));
                cutmix_box(size, lam, centre)
            }
        });
        MixChoice { lam, cutmix_box }
    }
}

impl MixupMode {
    /// Number of random choices for a batch of `n` images.
    pub fn entries(self, n: usize) -> usize {
        match self {
            MixupMode::Batch => 1,
            MixupMode::Pair | MixupMode::Half => n / 2,
            MixupMode::Elem => n,
        }
    }

    /// Number of results of a batch of `n` images.
    pub fn results(self, n: usize) -> usize {
        if self == MixupMode::Half { n / 2 } else { n }
    }
}

impl MixChoice {
    /// No mixing.
    pub const NONE: MixChoice = MixChoice { lam: 1.0, cutmix_box: None };
}

impl BatchMix {
    /// Mixing of `n` images of height and width `size` by the random choices of a mode. A CutMix box corrects the weight of the labels to
    /// its area.
    ///
    /// # Panics
    /// When there are fewer choices than [`entries`](MixupMode::entries).
    pub fn new(mode: MixupMode, n: usize, [h, w]: [usize; 2], choices: &[MixChoice]) -> BatchMix {
        let mut mix = BatchMix { changes: vec![], target_lams: vec![] };
        for i in 0..mode.results(n) {
            let partner = n - 1 - i;
            let MixChoice { lam, cutmix_box } = choices[match mode {
                MixupMode::Batch => 0,
                MixupMode::Pair => i.min(partner),
                MixupMode::Elem | MixupMode::Half => i,
            }];
            let mut change = ImageChange { partner, lam: lam as f32, ..ImageChange::none(i) };
            let mut target_lam = lam;
            // A weight of exactly 1 means that the entry is not mixed.
            if let Some(cut) = cutmix_box.filter(|_| lam != 1.0) {
                target_lam = 1.0 - cut.area() as f64 / (h * w) as f64;
                change = ImageChange { lam: 1.0, cutmix_box: cut, ..change };
            }
            mix.changes.push(change);
            mix.target_lams.push(target_lam as f32);
        }
        mix
    }
}

/// CutMix box of an `h × w` image for a mixing weight `lam`, centred at a row and a column, and clipped to the image.
pub fn cutmix_box(size: [usize; 2], lam: f64, centre: [usize; 2]) -> ImageBox {
    let ratio = (1.0 - lam).sqrt();
    let side = |axis: usize| {
        let cut = (size[axis] as f64 * ratio) as usize;
        [centre[axis].saturating_sub(cut / 2), (centre[axis] + cut.div_ceil(2)).min(size[axis])]
    };
    let [[top, bottom], [left, right]] = [side(0), side(1)];
    image_box([top, left], [bottom - top, right - left])
}

/// CutMix box with sides in a range of fractions of the image's sides, inside of the image.
fn bounded_cutmix_box(size: [usize; 2], [low, high]: [f64; 2], rng: &mut dyn RandomSource) -> ImageBox {
    // The upper limit is exclusive, as in timm, unless the range holds a single size.
    let cut = size.map(|side| {
        let [low, high] = [low, high].map(|fraction| (side as f64 * fraction) as usize);
        rng.integer(low, high.saturating_sub(1).max(low))
    });
    let corner = [rng.integer(0, size[0] - cut[0]), rng.integer(0, size[1] - cut[1])];
    image_box(corner, cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_engine::random::{RngKey, RngStream};

    const SIZE: [usize; 2] = [20, 30];

    fn options(mixup_alpha: f64, cutmix_alpha: f64, mode: MixupMode) -> MixupOptions {
        MixupOptions { mixup_alpha, cutmix_alpha, mode, num_classes: 4, ..MixupOptions::default() }
    }

    fn sample(options: &MixupOptions, epoch: u32, batch: u64) -> BatchMix {
        options.sample(epoch, 6, SIZE, &mut RngStream::new(RngKey::new(1, "mixup"), epoch, batch))
    }

    #[test]
    fn entries_share_choices_by_mode() {
        let lams = |mode| {
            let mix = sample(&options(1.0, 0.0, mode), 0, 0);
            mix.changes.iter().map(|change| change.lam).collect::<Vec<_>>()
        };
        let batch = lams(MixupMode::Batch);
        assert!(batch.len() == 6 && batch.iter().all(|lam| *lam == batch[0]));
        let pair = lams(MixupMode::Pair);
        assert!((0..3).all(|i| pair[i] == pair[5 - i]) && pair[0] != pair[1]);
        let elem = lams(MixupMode::Elem);
        assert!(elem.len() == 6 && elem[0] != elem[5]);
        assert_eq!(lams(MixupMode::Half).len(), 3);
    }

    #[test]
    fn switch_probability_chooses_between_mixup_and_cutmix() {
        let options = MixupOptions { switch_prob: 0.2, prob: 0.5, ..options(0.8, 1.0, MixupMode::Elem) };
        let mixes: Vec<BatchMix> = (0..500).map(|batch| sample(&options, 0, batch)).collect();
        let count = |is: fn(&ImageChange) -> bool| {
            mixes.iter().flat_map(|mix| &mix.changes).filter(|c| is(c)).count()
        };
        let cut = count(|change| change.cutmix_box.area() > 0);
        let mixed = count(|change| change.lam != 1.0);
        // Some boxes are empty: those of a weight near 1.
        assert!((220..340).contains(&cut) && (1100..1300).contains(&mixed), "{cut} {mixed}");
    }

    #[test]
    fn minmax_boxes_have_sides_in_range_and_correct_the_targets() {
        let options = MixupOptions { cutmix_minmax: Some([0.2, 0.8]), ..options(0.0, 0.0, MixupMode::Elem) };
        for batch in 0..100 {
            let mix = sample(&options, 0, batch);
            for (change, lam) in mix.changes.iter().zip(&mix.target_lams) {
                let cut = change.cutmix_box;
                assert!((4..16).contains(&cut.height()) && (6..24).contains(&cut.width()), "{cut:?}");
                assert!(cut.bottom <= 20 && cut.right <= 30);
                assert_eq!(*lam, (1.0 - cut.area() as f64 / 600.0) as f32);
            }
        }
    }

    #[test]
    fn nothing_is_mixed_from_the_off_epoch_on() {
        let options = MixupOptions { off_epoch: 3, ..options(0.8, 0.0, MixupMode::Half) };
        assert!(sample(&options, 2, 0).changes[0].lam < 1.0);
        let mix = sample(&options, 3, 0);
        assert!(mix.changes.len() == 3 && mix.target_lams == [1.0; 3]);
        let targets = options.soft_targets(&[1, 0, 2, 3, 3, 3], &mix).expect("targets");
        let first = &targets.to_vec::<f32>().expect("f32")[..4];
        assert_eq!(first, [0.025, 0.925, 0.025, 0.025], "smoothed one-hot");
    }

    #[test]
    fn invalid_options_and_odd_batches_are_rejected() {
        let valid = options(0.8, 1.0, MixupMode::Batch);
        assert!(valid.check(4).is_ok());
        assert!(valid.check(5).expect_err("odd").to_string().contains("even batch size"));
        assert!(MixupOptions { prob: -0.1, ..valid.clone() }.check(4).is_err());
        assert!(MixupOptions { mixup_alpha: f64::NAN, ..valid.clone() }.check(4).is_err());
        assert!(MixupOptions { cutmix_minmax: Some([0.8, 0.2]), ..valid }.check(4).is_err());
        assert!(options(0.0, 0.0, MixupMode::Batch).check(5).is_ok(), "without mixing");
    }
}
