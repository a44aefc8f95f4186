//! AutoAugment (Cubuk et al., 2019): a random sub-policy of two operations per image.
use super::PolicyOp::{self, *};
use super::sections::{Sections, float};
use super::{Magnitude, PolicyStep};

/// AutoAugment policy: sub-policies, one of which is chosen per image.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoAugmentPolicy {
    /// Sub-policies, each a list of operations that are applied in order.
    pub sub_policies: Vec<Vec<PolicyStep>>,
}

/// Names of the policies.
pub const NAMES: [&str; 5] = ["v0", "v0r", "original", "originalr", "3a"];

/// Operation, probability and magnitude of a step.
type Step = (PolicyOp, f64, f64);

impl AutoAugmentPolicy {
    /// Reads a configuration: the name of a policy, and `mstd`, the standard deviation of the magnitude.
    pub(super) fn parse(text: &str) -> Result<AutoAugmentPolicy, String> {
        let sections = Sections::read(text, &["mstd"])?;
        let noise = sections.get("mstd", float)?.unwrap_or(0.0);
        let policy: Vec<Vec<Step>> = match sections.name {
            "v0" => pairs(&V0),
            "v0r" => with_op(pairs(&V0), Posterize, PosterizeIncreasing),
            "original" => pairs(&ORIGINAL),
            "originalr" => with_op(pairs(&ORIGINAL), PosterizeOriginal, PosterizeIncreasing),
            "3a" => THREE_AUGMENT.iter().map(|step| vec![*step]).collect(),
            name => {
                return Err(format!(
                    "`{name}` is not a policy; use one of {}, rand or augmix",
                    NAMES.join(", ")
                ));
            }
        };
        let step = |(op, prob, level): Step| PolicyStep {
            op,
            prob,
            magnitude: Magnitude { level, std: noise, max: None },
        };
        let sub_policies = policy.into_iter().map(|steps| steps.into_iter().map(step).collect()).collect();
        Ok(AutoAugmentPolicy { sub_policies })
    }
}

fn pairs(policy: &[[Step; 2]]) -> Vec<Vec<Step>> {
    policy.iter().map(|steps| steps.to_vec()).collect()
}

/// The policy with an operation replaced.
fn with_op(mut policy: Vec<Vec<Step>>, old: PolicyOp, new: PolicyOp) -> Vec<Vec<Step>> {
    policy.iter_mut().flatten().filter(|step| step.0 == old).for_each(|step| step.0 = new);
    policy
}

/// Policy for ImageNet of the EfficientNet authors. `v0r` posterizes more with the magnitude instead of less.
#[rustfmt::skip]
const V0: [[Step; 2]; 25] = [
    [(Equalize, 0.8, 1.0), (ShearY, 0.8, 4.0)],
    [(Color, 0.4, 9.0), (Equalize, 0.6, 3.0)],
    [(Color, 0.4, 1.0), (Rotate, 0.6, 8.0)],
    [(Solarize, 0.8, 3.0), (Equalize, 0.4, 7.0)],
    [(Solarize, 0.4, 2.0), (Solarize, 0.6, 2.0)],
    [(Color, 0.2, 0.0), (Equalize, 0.8, 8.0)],
    [(Equalize, 0.4, 8.0), (SolarizeAdd, 0.8, 3.0)],
    [(ShearX, 0.2, 9.0), (Rotate, 0.6, 8.0)],
    [(Color, 0.6, 1.0), (Equalize, 1.0, 2.0)],
    [(Invert, 0.4, 9.0), (Rotate, 0.6, 0.0)],
    [(Equalize, 1.0, 9.0), (ShearY, 0.6, 3.0)],
    [(Color, 0.4, 7.0), (Equalize, 0.6, 0.0)],
    [(Posterize, 0.4, 6.0), (AutoContrast, 0.4, 7.0)],
    [(Solarize, 0.6, 8.0), (Color, 0.6, 9.0)],
    [(Solarize, 0.2, 4.0), (Rotate, 0.8, 9.0)],
    [(Rotate, 1.0, 7.0), (TranslateYRel, 0.8, 9.0)],
    [(ShearX, 0.0, 0.0), (Solarize, 0.8, 4.0)],
    [(ShearY, 0.8, 0.0), (Color, 0.6, 4.0)],
    [(Color, 1.0, 0.0), (Rotate, 0.6, 2.0)],
    [(Equalize, 0.8, 4.0), (Equalize, 0.0, 8.0)],
    [(Equalize, 1.0, 4.0), (AutoContrast, 0.6, 2.0)],
    [(ShearY, 0.4, 7.0), (SolarizeAdd, 0.6, 7.0)],
    [(Posterize, 0.8, 2.0), (Solarize, 0.6, 10.0)],
    [(Solarize, 0.6, 8.0), (Equalize, 0.6, 1.0)],
    [(Color, 0.8, 6.0), (Rotate, 0.4, 5.0)],
];

/// Policy for ImageNet of the paper. `originalr` posterizes more with the magnitude.
#[rustfmt::skip]
const ORIGINAL: [[Step; 2]; 25] = [
    [(PosterizeOriginal, 0.4, 8.0), (Rotate, 0.6, 9.0)],
    [(Solarize, 0.6, 5.0), (AutoContrast, 0.6, 5.0)],
    [(Equalize, 0.8, 8.0), (Equalize, 0.6, 3.0)],
    [(PosterizeOriginal, 0.6, 7.0), (PosterizeOriginal, 0.6, 6.0)],
    [(Equalize, 0.4, 7.0), (Solarize, 0.2, 4.0)],
    [(Equalize, 0.4, 4.0), (Rotate, 0.8, 8.0)],
    [(Solarize, 0.6, 3.0), (Equalize, 0.6, 7.0)],
    [(PosterizeOriginal, 0.8, 5.0), (Equalize, 1.0, 2.0)],
    [(Rotate, 0.2, 3.0), (Solarize, 0.6, 8.0)],
    [(Equalize, 0.6, 8.0), (PosterizeOriginal, 0.4, 6.0)],
    [(Rotate, 0.8, 8.0), (Color, 0.4, 0.0)],
    [(Rotate, 0.4, 9.0), (Equalize, 0.6, 2.0)],
    [(Equalize, 0.0, 7.0), (Equalize, 0.8, 8.0)],
    [(Invert, 0.6, 4.0), (Equalize, 1.0, 8.0)],
    [(Color, 0.6, 4.0), (Contrast, 1.0, 8.0)],
    [(Rotate, 0.8, 8.0), (Color, 1.0, 2.0)],
    [(Color, 0.8, 8.0), (Solarize, 0.8, 7.0)],
    [(Sharpness, 0.4, 7.0), (Invert, 0.6, 8.0)],
    [(ShearX, 0.6, 5.0), (Equalize, 1.0, 9.0)],
    [(Color, 0.4, 0.0), (Equalize, 0.6, 3.0)],
    [(Equalize, 0.4, 7.0), (Solarize, 0.2, 4.0)],
    [(Solarize, 0.6, 5.0), (AutoContrast, 0.6, 5.0)],
    [(Invert, 0.6, 4.0), (Equalize, 1.0, 8.0)],
    [(Color, 0.6, 4.0), (Contrast, 1.0, 8.0)],
    [(Equalize, 0.8, 8.0), (Equalize, 0.6, 3.0)],
];

/// 3-Augment (Touvron et al., 2022).
const THREE_AUGMENT: [Step; 3] =
    [(Solarize, 1.0, 5.0), (Desaturate, 1.0, 10.0), (GaussianBlurRand, 1.0, 10.0)];
