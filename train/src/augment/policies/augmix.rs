//! AugMix (Hendrycks et al., 2020): a weighted mixture of chains of operations, blended with the image.
use super::PolicyOp::{self, *};
use super::sections::{Sections, float, integer};
use super::{Magnitude, PolicyContext, PolicyStep};
use crate::augment::{RandomSource, image_ops};
use crate::data::Image;

/// AugMix policy.
#[derive(Clone, Debug, PartialEq)]
pub struct AugMix {
    /// Number of chains: section `w`.
    pub width: usize,
    /// Operations per chain, or `None` for 1 to 3: section `d`.
    pub depth: Option<usize>,
    /// Parameter of the distributions of weights: section `a`.
    pub alpha: f64,
    /// Blend each chain into the image in turn, instead of their mixture: section `b`.
    pub blended: bool,
    /// Magnitude: sections `m` and `mstd`.
    pub magnitude: Magnitude,
}

/// Operations of the chains.
#[rustfmt::skip]
pub const AUGMIX_OPS: [PolicyOp; 13] = [
    AutoContrast, ColorIncreasing, ContrastIncreasing, BrightnessIncreasing, SharpnessIncreasing, Equalize, Rotate,
    PosterizeIncreasing, SolarizeIncreasing, ShearX, ShearY, TranslateXRel, TranslateYRel,
];

/// Maximum random number of operations per chain.
const MAX_DEPTH: usize = 3;

impl AugMix {
    /// Reads a configuration `augmix-…`.
    pub(super) fn parse(text: &str) -> Result<AugMix, String> {
        let sections = Sections::read(text, &["m", "w", "d", "a", "b", "mstd"])?;
        let mix = AugMix {
            width: sections.get("w", integer)?.unwrap_or(3),
            depth: sections.get("d", integer)?.filter(|depth| *depth > 0),
            alpha: sections.get("a", float)?.unwrap_or(1.0),
            blended: sections.get("b", integer)?.unwrap_or(0) != 0,
            magnitude: Magnitude {
                level: sections.get("m", integer)?.unwrap_or(3) as f64,
                std: sections.get("mstd", float)?.unwrap_or(f64::INFINITY),
                max: None,
            },
        };
        if mix.width == 0 || mix.alpha == 0.0 {
            return Err(format!("`{text}`: the width `w` and the parameter `a` must be above 0"));
        }
        Ok(mix)
    }

    /// Augments an image.
    pub(super) fn apply(&self, image: &mut Image, context: &PolicyContext, rng: &mut dyn RandomSource) {
        let weights: Vec<f32> =
            rng.dirichlet(self.alpha, self.width).iter().map(|weight| *weight as f32).collect();
        let m = rng.beta(self.alpha) as f32;
        let chains: Vec<Image> = (0..self.width)
            .map(|_| {
                let mut chain = image.clone();
                for _ in 0..self.depth.unwrap_or_else(|| rng.integer(1, MAX_DEPTH)) {
                    let op = AUGMIX_OPS[rng.integer(0, AUGMIX_OPS.len() - 1)];
                    PolicyStep { op, prob: 1.0, magnitude: self.magnitude }.apply(&mut chain, context, rng);
                }
                chain
            })
            .collect();
        match self.blended {
            true => blend_chains(image, &chains, &weights, m),
            false => mix_chains(image, &chains, &weights, m),
        }
    }
}

/// Replaces an image by its blend with the weighted sum of chains, which has the weight `m`.
pub fn mix_chains(image: &mut Image, chains: &[Image], weights: &[f32], m: f32) {
    let mut mixed = vec![0f32; image.pixels.len()];
    for (chain, weight) in chains.iter().zip(weights) {
        mixed.iter_mut().zip(&chain.pixels).for_each(|(sum, value)| *sum += weight * f32::from(*value));
    }
    // The conversion of floats to bytes truncates and clips.
    let mixed = Image { size: image.size, pixels: mixed.iter().map(|sum| *sum as u8).collect() };
    image_ops::blend(image, &mixed, m);
}

/// Blends chains into an image one after another, so that chain `i` has the weight `m * weights[i]` but for rounding.
fn blend_chains(image: &mut Image, chains: &[Image], weights: &[f32], m: f32) {
    let mut left = 1.0;
    let mut factors: Vec<f32> = weights
        .iter()
        .rev()
        .map(|weight| {
            let factor = weight * m / left;
            left *= 1.0 - factor;
            factor
        })
        .collect();
    factors.reverse();
    for (chain, factor) in chains.iter().zip(factors) {
        image_ops::blend(image, chain, factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blended_chains_have_their_weights() {
        let constant = |value: u8| Image { size: [1, 1, 1], pixels: vec![value] };
        let mut image = constant(100);
        blend_chains(&mut image, &[constant(200), constant(0)], &[0.75, 0.25], 0.8);
        // 0.2 * 100 + 0.6 * 200 + 0.2 * 0, truncated twice.
        assert!((139..=140).contains(&image.pixels[0]), "{}", image.pixels[0]);
    }
}
