//! Colour jitter, as torchvision's `ColorJitter`.
use super::{RandomSource, image_ops};
use crate::data::Image;

/// Ranges of random factors. Brightness, contrast and saturation are multiplied by a factor from `1 - x` (at least 0) to `1 + x`, the hue
/// is rotated by up to `x` turns; 0 switches each off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ColorJitter {
    /// Brightness.
    pub brightness: f64,
    /// Contrast.
    pub contrast: f64,
    /// Saturation.
    pub saturation: f64,
    /// Hue, at most 0.5.
    pub hue: f64,
}

impl ColorJitter {
    /// The jitter of timm's `--color-jitter`: one number for brightness, contrast and saturation, one for each, or these and the hue.
    /// `None` without numbers, or if all are 0.
    pub fn from_factors(factors: &[f32]) -> Result<Option<ColorJitter>, String> {
        let numbers: Vec<f64> = factors.iter().map(|factor| f64::from(*factor)).collect();
        let (brightness, contrast, saturation, hue) = match numbers[..] {
            [] => return Ok(None),
            [all] => (all, all, all, 0.0),
            [brightness, contrast, saturation] => (brightness, contrast, saturation, 0.0),
            [brightness, contrast, saturation, hue] => (brightness, contrast, saturation, hue),
            _ => {
                return Err(format!(
                    "{} numbers; 1, 3 (brightness, contrast, saturation) or 4 (with hue) are accepted",
                    numbers.len()
                ));
            }
        };
        if !numbers.iter().all(|number| *number >= 0.0 && number.is_finite()) || hue > 0.5 {
            return Err(format!("{numbers:?}; factors must be at least 0, and the hue at most 0.5"));
        }
        let jitter = ColorJitter { brightness, contrast, saturation, hue };
        Ok(numbers.iter().any(|number| *number > 0.0).then_some(jitter))
    }

    /// Changes an image by random factors, in random order.
    pub fn apply(&self, image: &mut Image, rng: &mut dyn RandomSource) {
        // Fisher-Yates shuffle.
        let mut order = [0, 1, 2, 3];
        (1..order.len()).rev().for_each(|i| order.swap(i, rng.integer(0, i)));
        let factors = [self.brightness, self.contrast, self.saturation]
            .map(|range| rng.between((1.0 - range).max(0.0), 1.0 + range) as f32);
        let hue = rng.between(-self.hue, self.hue);
        for step in order {
            match step {
                0 if self.brightness > 0.0 => image_ops::brightness(image, factors[0]),
                1 if self.contrast > 0.0 => image_ops::contrast(image, factors[1]),
                2 if self.saturation > 0.0 => image_ops::color(image, factors[2]),
                3 if self.hue > 0.0 => image_ops::hue(image, hue),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_engine::random::{RngKey, RngStream};

    #[test]
    fn one_three_or_four_numbers_are_accepted() {
        let jitter = |brightness, contrast, saturation, hue| {
            Ok(Some(ColorJitter { brightness, contrast, saturation, hue }))
        };
        assert_eq!(ColorJitter::from_factors(&[]), Ok(None));
        assert_eq!(ColorJitter::from_factors(&[0.0]), Ok(None));
        assert_eq!(ColorJitter::from_factors(&[0.5]), jitter(0.5, 0.5, 0.5, 0.0));
        assert_eq!(ColorJitter::from_factors(&[0.5, 0.25, 0.0]), jitter(0.5, 0.25, 0.0, 0.0));
        assert_eq!(ColorJitter::from_factors(&[0.5, 0.25, 0.0, 0.125]), jitter(0.5, 0.25, 0.0, 0.125));
        assert!(ColorJitter::from_factors(&[0.1, 0.1]).is_err());
        assert!(ColorJitter::from_factors(&[-0.1]).is_err());
        assert!(ColorJitter::from_factors(&[0.1, 0.1, 0.1, 0.6]).is_err());
    }

    #[test]
    fn brightness_factors_cover_their_range() {
        let jitter = ColorJitter { brightness: 0.5, contrast: 0.0, saturation: 0.0, hue: 0.0 };
        let values: Vec<u8> = (0..300)
            .map(|sample| {
                let mut image = Image { size: [1, 1, 3], pixels: vec![100; 3] };
                jitter.apply(&mut image, &mut RngStream::new(RngKey::new(1, "jitter"), 0, sample));
                image.pixels[0]
            })
            .collect();
        let (low, high) = (values.iter().min().expect("300"), values.iter().max().expect("300"));
        assert!((50..55).contains(low) && (145..150).contains(high), "{low} {high}");
    }
}
