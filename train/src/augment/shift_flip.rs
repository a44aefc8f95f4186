//! Random shift and horizontal flip of training images: a pure function of (seed, epoch, sample).
use fornax_engine::random::{RngKey, RngStream};

/// Augmentation options.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Augment {
    /// Maximum shift along each axis, in pixels; uncovered pixels are black.
    pub shift: u32,
    /// Probability of a horizontal flip.
    pub hflip: f64,
}

impl Augment {
    /// Random key of a run's augmentation.
    pub fn key(seed: u64) -> RngKey {
        RngKey::new(seed, "augment")
    }

    /// Writes the augmented `image` of `[h, w, c]` to `out`, with the random numbers of one sample in one epoch.
    pub fn apply(&self, image: &[u8], [h, w, c]: [usize; 3], rng: &mut RngStream, out: &mut [u8]) {
        let range = 2 * self.shift + 1;
        let mut shift = || i64::from(rng.below(range)) - i64::from(self.shift);
        let (dy, dx) = (shift(), shift());
        let flip = f64::from(rng.uniform()) < self.hflip;
        for y in 0..h {
            for x in 0..w {
                let unflipped = if flip { w - 1 - x } else { x };
                let from = (y as i64 - dy, unflipped as i64 - dx);
                let pixel = &mut out[(y * w + x) * c..][..c];
                if (0..h as i64).contains(&from.0) && (0..w as i64).contains(&from.1) {
                    pixel.copy_from_slice(&image[(from.0 as usize * w + from.1 as usize) * c..][..c]);
                } else {
                    pixel.fill(0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(augment: Augment, image: &[u8], size: [usize; 3], sample: u64) -> Vec<u8> {
        let mut out = vec![255; image.len()];
        augment.apply(image, size, &mut RngStream::new(Augment::key(1), 0, sample), &mut out);
        out
    }

    #[test]
    fn default_options_change_nothing() {
        let image: Vec<u8> = (0..12).collect();
        assert_eq!(apply(Augment::default(), &image, [2, 3, 2], 0), image);
    }

    #[test]
    fn flip_mirrors_rows_and_keeps_channels() {
        let augment = Augment { hflip: 1.0, shift: 0 };
        assert_eq!(apply(augment, &[1, 2, 3, 4, 5, 6, 7, 8], [2, 2, 2], 0), [3, 4, 1, 2, 7, 8, 5, 6]);
    }

    #[test]
    fn shifts_cover_their_whole_range() {
        let mut centre = vec![0; 25];
        centre[12] = 9;
        let mut seen = [0; 25];
        for sample in 0..500 {
            let out = apply(Augment { shift: 1, hflip: 0.0 }, &centre, [5, 5, 1], sample);
            seen[out.iter().position(|v| *v == 9).expect("still in view")] += 1;
        }
        let reached: Vec<usize> = (0..25).filter(|i| seen[*i] > 25).collect();
        assert_eq!(reached, [6, 7, 8, 11, 12, 13, 16, 17, 18]);
    }
}
