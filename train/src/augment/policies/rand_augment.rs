//! RandAugment (Cubuk et al., 2020): random operations of one magnitude.
use super::PolicyOp::{self, *};
use super::sections::{Sections, float, integer, probability};
use super::{FULL_MAGNITUDE, Magnitude};
use crate::augment::RandomSource;

/// RandAugment policy.
#[derive(Clone, Debug, PartialEq)]
pub struct RandAugment {
    /// Operations per image: section `n`.
    pub num_layers: usize,
    /// Probability of each operation: section `p`.
    pub prob: f64,
    /// Magnitude: sections `m`, `mstd` and `mmax`.
    pub magnitude: Magnitude,
    /// Operations to choose from, with replacement if there are no weights: sections `t` and `inc`.
    pub ops: Vec<PolicyOp>,
    /// Probability of each operation, chosen without replacement.
    pub choice_weights: Option<Vec<f64>>,
}

/// Value of `mstd` above which the magnitude is uniform.
const MAX_STD: f64 = 100.0;

impl RandAugment {
    /// Reads a configuration `rand-…`.
    pub(super) fn parse(text: &str) -> Result<RandAugment, String> {
        let sections = Sections::read(text, &["m", "n", "p", "mstd", "mmax", "inc", "t"])?;
        let std = sections.get("mstd", float)?.unwrap_or(0.0);
        let magnitude = Magnitude {
            level: sections.get("m", integer)?.map_or(FULL_MAGNITUDE, |level| level as f64),
            std: if std > MAX_STD { f64::INFINITY } else { std },
            max: sections.get("mmax", integer)?.map(|max| max as f64),
        };
        let increasing = sections.get("inc", integer)?.unwrap_or(0) != 0;
        let set = sections.get("t", |name| match name {
            "weights" => Ok(weighted(&WEIGHTS)),
            "3a" => Ok((vec![SolarizeIncreasing, Desaturate, GaussianBlur], None)),
            "3aw" => Ok(weighted(&WEIGHTS_3A)),
            _ => Err("transform sets are weights, 3a and 3aw".to_string()),
        })?;
        let (ops, choice_weights) = match set {
            Some(set) => set,
            None if increasing => (INCREASING.to_vec(), None),
            None => (STANDARD.to_vec(), None),
        };
        let num_layers = sections.get("n", integer)?.unwrap_or(2);
        if choice_weights.is_some() && num_layers > ops.len() {
            let most = ops.len();
            return Err(format!(
                "section `n{num_layers}`: a weighted set has {most} operations, chosen once each"
            ));
        }
        let prob = sections.get("p", probability)?.unwrap_or(0.5);
        Ok(RandAugment { num_layers, prob, magnitude, ops, choice_weights })
    }

    /// Chooses the operations of an image.
    pub(super) fn choose(&self, rng: &mut dyn RandomSource) -> Vec<PolicyOp> {
        let Some(weights) = &self.choice_weights else {
            return (0..self.num_layers).map(|_| self.ops[rng.integer(0, self.ops.len() - 1)]).collect();
        };
        let mut left: Vec<(PolicyOp, f64)> = self.ops.iter().copied().zip(weights.iter().copied()).collect();
        let mut chosen = vec![];
        for _ in 0..self.num_layers {
            let sum: f64 = left.iter().map(|(_, weight)| weight).sum();
            let mut position = rng.uniform() * sum;
            let reached = left.iter().position(|(_, weight)| {
                position -= weight;
                position < 0.0
            });
            chosen.push(left.remove(reached.unwrap_or(left.len() - 1)).0);
        }
        chosen
    }
}

/// Operations, and their weights divided by the sum.
fn weighted(table: &[(PolicyOp, f64)]) -> (Vec<PolicyOp>, Option<Vec<f64>>) {
    let sum: f64 = table.iter().map(|(_, weight)| weight).sum();
    (table.iter().map(|(op, _)| *op).collect(), Some(table.iter().map(|(_, weight)| weight / sum).collect()))
}

#[rustfmt::skip]
const STANDARD: [PolicyOp; 15] = [
    AutoContrast, Equalize, Invert, Rotate, Posterize, Solarize, SolarizeAdd, Color, Contrast, Brightness, Sharpness,
    ShearX, ShearY, TranslateXRel, TranslateYRel,
];

/// The standard operations, of which all grow stronger with the magnitude.
#[rustfmt::skip]
const INCREASING: [PolicyOp; 15] = [
    AutoContrast, Equalize, Invert, Rotate, PosterizeIncreasing, SolarizeIncreasing, SolarizeAdd, ColorIncreasing,
    ContrastIncreasing, BrightnessIncreasing, SharpnessIncreasing, ShearX, ShearY, TranslateXRel, TranslateYRel,
];

/// timm's set `weights`.
#[rustfmt::skip]
const WEIGHTS: [(PolicyOp, f64); 15] = [
    (Rotate, 3.0), (ShearX, 2.0), (ShearY, 2.0), (TranslateXRel, 1.0), (TranslateYRel, 1.0), (ColorIncreasing, 0.25),
    (SharpnessIncreasing, 0.25), (AutoContrast, 0.25), (SolarizeIncreasing, 0.05), (SolarizeAdd, 0.05),
    (ContrastIncreasing, 0.05), (BrightnessIncreasing, 0.05), (Equalize, 0.05), (PosterizeIncreasing, 0.05),
    (Invert, 0.05),
];

/// timm's set `3aw`.
#[rustfmt::skip]
const WEIGHTS_3A: [(PolicyOp, f64); 14] = [
    (SolarizeIncreasing, 6.0), (Desaturate, 6.0), (GaussianBlur, 6.0), (Rotate, 3.0), (ShearX, 2.0), (ShearY, 2.0),
    (PosterizeIncreasing, 1.0), (AutoContrast, 1.0), (ColorIncreasing, 1.0), (SharpnessIncreasing, 1.0),
    (ContrastIncreasing, 1.0), (BrightnessIncreasing, 1.0), (Equalize, 1.0), (Invert, 1.0),
];
