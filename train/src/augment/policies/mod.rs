//! Augmentation policies by timm's configuration strings: AutoAugment, RandAugment and AugMix.
mod augmix;
mod auto_augment;
mod operation;
mod rand_augment;
mod sections;

pub use augmix::{AUGMIX_OPS, AugMix, mix_chains};
pub use auto_augment::AutoAugmentPolicy;
pub use operation::{FULL_MAGNITUDE, PolicyOp};
pub use rand_augment::RandAugment;

use super::{RandomSource, TrainInterpolation};
use crate::data::Image;
use std::fmt;
use std::str::FromStr;

/// Augmentation policy: timm's `--aa`.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoAugment {
    text: String,
    policy: Policy,
}

/// Kind of a policy.
#[derive(Clone, Debug, PartialEq)]
pub enum Policy {
    /// `v0`, `v0r`, `original`, `originalr` or `3a`.
    AutoAugment(AutoAugmentPolicy),
    /// `rand-…`.
    RandAugment(RandAugment),
    /// `augmix-…`.
    AugMix(AugMix),
}

/// Magnitude of operations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Magnitude {
    /// Mean.
    pub level: f64,
    /// Standard deviation; infinite for a uniform distribution from 0 to the level.
    pub std: f64,
    /// Largest magnitude, 10 if `None` or 0.
    pub max: Option<f64>,
}

/// Operation with its probability and magnitude.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicyStep {
    /// Operation.
    pub op: PolicyOp,
    /// Probability.
    pub prob: f64,
    /// Magnitude.
    pub magnitude: Magnitude,
}

/// Settings of the operations that do not depend on the policy's configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyContext {
    /// Colour of uncovered pixels, one value per channel.
    pub fill: Vec<u8>,
    /// Filter of operations that move pixels.
    pub interpolation: TrainInterpolation,
    /// Shift in pixels of `TranslateX` and `TranslateY` at full magnitude.
    pub translate_const: f64,
    /// Shift of `TranslateXRel` and `TranslateYRel` at full magnitude, as a fraction of the side.
    pub translate_pct: f64,
}

impl AutoAugment {
    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// True if colour jitter is applied beside the policy: only 3-Augment is made for that.
    pub fn allows_color_jitter(&self) -> bool {
        self.text.contains("3a")
    }

    /// Augments an image.
    pub fn apply(&self, image: &mut Image, context: &PolicyContext, rng: &mut dyn RandomSource) {
        match &self.policy {
            Policy::AutoAugment(policy) => {
                let chosen = rng.integer(0, policy.sub_policies.len() - 1);
                policy.sub_policies[chosen].iter().for_each(|step| step.apply(image, context, rng));
            }
            Policy::RandAugment(policy) => {
                for op in policy.choose(rng) {
                    PolicyStep { op, prob: policy.prob, magnitude: policy.magnitude }
                        .apply(image, context, rng);
                }
            }
            Policy::AugMix(policy) => policy.apply(image, context, rng),
        }
    }
}

impl FromStr for AutoAugment {
    type Err = String;

    fn from_str(text: &str) -> Result<AutoAugment, String> {
        let policy = match text.split('-').next() {
            Some("rand") => Policy::RandAugment(RandAugment::parse(text)?),
            Some("augmix") => Policy::AugMix(AugMix::parse(text)?),
            _ => Policy::AutoAugment(AutoAugmentPolicy::parse(text)?),
        };
        Ok(AutoAugment { text: text.into(), policy })
    }
}

impl fmt::Display for AutoAugment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Magnitude {
    fn sample(&self, rng: &mut dyn RandomSource) -> f64 {
        let sampled = match self.std {
            std if std.is_infinite() => rng.between(0.0, self.level),
            std if std > 0.0 => self.level + std * rng.normal(),
            _ => self.level,
        };
        sampled.clamp(0.0, self.max.filter(|max| *max > 0.0).unwrap_or(FULL_MAGNITUDE))
    }
}

impl PolicyStep {
    /// Applies the operation with its probability, a random magnitude, sign and filter.
    pub fn apply(&self, image: &mut Image, context: &PolicyContext, rng: &mut dyn RandomSource) {
        if self.prob < 1.0 && rng.uniform() > self.prob {
            return;
        }
        let magnitude = self.magnitude.sample(rng);
        let argument = self.op.argument(magnitude, context, rng).unwrap_or(0.0);
        let filter = context.interpolation.sample(rng);
        self.op.apply(image, argument, filter, &context.fill);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::resize::ResizeFilter;
    use fornax_engine::random::{RngKey, RngStream};

    fn context() -> PolicyContext {
        PolicyContext {
            fill: vec![124, 116, 104],
            interpolation: TrainInterpolation::Random,
            translate_const: 100.0,
            translate_pct: 0.45,
        }
    }

    #[test]
    fn configurations_print_as_they_are_given() {
        for text in [
            "v0",
            "original-mstd0.5",
            "3a",
            "rand-m9-mstd0.5-inc1",
            "rand-n3-p0.7-mmax20-tweights",
            "augmix-m5-w4-d2",
        ] {
            assert_eq!(text.parse::<AutoAugment>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn error_names_the_part_and_the_accepted_parts() {
        for (text, part, accepted) in [
            ("v1", "`v1`", "v0, v0r, original, originalr, 3a, rand or augmix"),
            ("original-m9", "`m9`", "sections are mstd"),
            ("rand-m9-w0", "`w0`", "m, n, p, mstd, mmax, inc, t"),
            ("rand-mstdinf", "`mstdinf`", "each with its value"),
            ("rand-m9.5", "`m9.5`", "not an integer"),
            ("rand-p1.5", "`p1.5`", "above 1"),
            ("rand-tall", "`tall`", "weights, 3a and 3aw"),
            ("rand-n20-tweights", "`n20`", "15 operations"),
            ("rand-m9-m8", "`m`", "given twice"),
            ("augmix-w0", "`augmix-w0`", "above 0"),
            ("", "``", "v0"),
        ] {
            let error = text.parse::<AutoAugment>().expect_err(text);
            assert!(error.contains(part) && error.contains(accepted), "{text}: {error}");
        }
    }

    #[test]
    fn policies_are_pure_functions_of_the_random_numbers_and_keep_the_size() {
        for channels in [1, 3] {
            let image = Image {
                size: [24, 17, channels],
                pixels: (0..24 * 17 * channels).map(|i| (i * 89 % 251) as u8).collect(),
            };
            for text in [
                "v0",
                "originalr-mstd1",
                "3a",
                "rand-m9-mstd0.5-inc1",
                "rand-m30-mmax40-n4",
                "rand-n3-t3aw",
                "augmix",
                "augmix-b1-d2",
            ] {
                let policy: AutoAugment = text.parse().expect("known");
                let mut changed = 0;
                for sample in 0..40 {
                    let apply = || {
                        let mut image = image.clone();
                        policy.apply(
                            &mut image,
                            &context(),
                            &mut RngStream::new(RngKey::new(1, "aa"), 0, sample),
                        );
                        image
                    };
                    let augmented = apply();
                    assert_eq!(augmented, apply());
                    assert_eq!((augmented.size, augmented.pixels.len()), (image.size, image.pixels.len()));
                    changed += usize::from(augmented != image);
                }
                assert!(changed > 20 || channels == 1, "{text} changed {changed} of 40 images");
            }
        }
    }

    #[test]
    fn weighted_operations_are_chosen_once_each() {
        let Policy::RandAugment(policy) = "rand-n15-tweights".parse::<AutoAugment>().expect("known").policy
        else {
            panic!("RandAugment");
        };
        let mut rng = RngStream::new(RngKey::new(1, "aa"), 0, 0);
        let chosen = policy.choose(&mut rng);
        assert!(policy.ops.iter().all(|op| chosen.iter().filter(|other| *other == op).count() == 1));
        let few = RandAugment { num_layers: 1, ..policy };
        let rotations = (0..1000).filter(|_| few.choose(&mut rng) == [PolicyOp::Rotate]).count();
        assert!((250..345).contains(&rotations), "{rotations} of 1000, with weight 0.297");
    }

    #[test]
    fn fixed_filter_is_used_for_every_operation() {
        let context =
            PolicyContext { interpolation: TrainInterpolation::Fixed(ResizeFilter::Nearest), ..context() };
        let magnitude = Magnitude { level: 5.0, std: 0.0, max: None };
        let step = PolicyStep { op: PolicyOp::Rotate, prob: 1.0, magnitude };
        let mut image =
            Image { size: [9, 9, 1], pixels: (0..81).map(|i| if i % 2 == 0 { 255 } else { 0 }).collect() };
        step.apply(&mut image, &context, &mut RngStream::new(RngKey::new(1, "aa"), 0, 0));
        assert!(image.pixels.iter().all(|value| [0, 255, 124].contains(value)), "no interpolated value");
    }
}
