//! Random erasing (Zhong et al., 2020): boxes of images that are overwritten after normalisation.
use super::RandomSource;
use super::random_resized_crop::image_box;
use crate::{Error, Result};
use fornax_engine::random::RngStream;
use fornax_engine::{EraseMode, ImageBox};

/// Attempts at each box.
const ATTEMPTS: usize = 10;

/// Options of random erasing.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomErasingOptions {
    /// Probability that an image is erased: timm's `--reprob`.
    pub prob: f64,
    /// Content of the boxes, written by [`prepare_images`](fornax_engine::Tensor::prepare_images): timm's `--remode`.
    pub mode: EraseMode,
    /// Smallest number of boxes of an erased image.
    pub min_count: usize,
    /// Largest number of boxes of an erased image, timm's `--recount`; the number is uniform.
    pub count: usize,
    /// Number of augmentation splits of a batch; above 1, the first split is not erased: timm's `--resplit`.
    pub num_splits: usize,
    /// Smallest and largest area of all boxes of an image, as a fraction of the image's.
    pub area: [f64; 2],
    /// Smallest and largest aspect ratio of a box, height / width.
    pub aspect: [f64; 2],
}

impl Default for RandomErasingOptions {
    fn default() -> RandomErasingOptions {
        RandomErasingOptions {
            prob: 0.0,
            mode: EraseMode::Const,
            min_count: 1,
            count: 1,
            num_splits: 0,
            area: [0.02, 1.0 / 3.0],
            aspect: [0.3, 1.0 / 0.3],
        }
    }
}

impl RandomErasingOptions {
    /// Errors if a probability, count or range is invalid.
    pub fn check(&self) -> Result<()> {
        let invalid = |option: &str, value: String, accepted: &str| {
            Err(Error::usage("invalid random erasing options")
                .because(format!("{option} is {value}"))
                .remedy(format!("use {accepted}")))
        };
        if !(0.0..=1.0).contains(&self.prob) {
            return invalid("reprob", self.prob.to_string(), "a probability from 0 to 1");
        }
        if self.min_count == 0 || self.count < self.min_count {
            return invalid(
                "recount",
                self.count.to_string(),
                &format!("at least {}", self.min_count.max(1)),
            );
        }
        let increasing = |[low, high]: [f64; 2]| low > 0.0 && low <= high;
        if !increasing(self.area) || self.area[1] > 1.0 || !increasing(self.aspect) {
            let ranges = format!("{:?} and {:?}", self.area, self.aspect);
            return invalid(
                "the range of areas and aspect ratios",
                ranges,
                "increasing positive numbers, areas up to 1",
            );
        }
        Ok(())
    }

    /// Index of the first image of a batch that may be erased.
    pub fn first_image(&self, batch: usize) -> usize {
        if self.num_splits > 1 { batch / self.num_splits } else { 0 }
    }

    /// Boxes to erase in one image of height `h` and width `w`.
    pub fn boxes(&self, rng: &mut RngStream, h: usize, w: usize) -> Vec<ImageBox> {
        self.sample_boxes([h, w], rng)
    }

    /// As [`boxes`](RandomErasingOptions::boxes), from any source of random numbers.
    pub fn sample_boxes(&self, [h, w]: [usize; 2], rng: &mut dyn RandomSource) -> Vec<ImageBox> {
        if rng.uniform() > self.prob {
            return vec![];
        }
        let count =
            if self.min_count == self.count { self.count } else { rng.integer(self.min_count, self.count) };
        (0..count).filter_map(|_| self.sample_box([h, w], count, rng)).collect()
    }

    /// One of `count` boxes; `None` if no attempt is smaller than the image.
    fn sample_box(&self, [h, w]: [usize; 2], count: usize, rng: &mut dyn RandomSource) -> Option<ImageBox> {
        for _ in 0..ATTEMPTS {
            let area = rng.between(self.area[0], self.area[1]) * (h * w) as f64 / count as f64;
            let aspect = rng.between(self.aspect[0].ln(), self.aspect[1].ln()).exp();
            let side = |square: f64| square.sqrt().round_ties_even() as usize;
            let [height, width] = [side(area * aspect), side(area / aspect)];
            if height < h && width < w {
                let (top, left) = (rng.integer(0, h - height), rng.integer(0, w - width));
                return Some(image_box([top, left], [height, width]));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_engine::random::RngKey;

    fn stream(sample: u64) -> RngStream {
        RngStream::new(RngKey::new(1, "erase"), 0, sample)
    }

    #[test]
    fn fraction_of_erased_images_and_their_area_follow_the_options() {
        let options = RandomErasingOptions { prob: 0.25, count: 3, ..RandomErasingOptions::default() };
        let boxes: Vec<Vec<ImageBox>> = (0..4000).map(|i| options.boxes(&mut stream(i), 64, 48)).collect();
        let erased: Vec<&Vec<ImageBox>> = boxes.iter().filter(|boxes| !boxes.is_empty()).collect();
        assert!((900..1100).contains(&erased.len()), "{}", erased.len());
        assert!(erased.iter().any(|boxes| boxes.len() == 3) && erased.iter().all(|boxes| boxes.len() <= 3));
        for boxes in erased {
            assert!(boxes.iter().all(|b| b.bottom <= 64 && b.right <= 48));
            let area: usize = boxes.iter().map(ImageBox::area).sum();
            assert!((0.005..0.36).contains(&(area as f64 / (64.0 * 48.0))), "{area}");
        }
    }

    #[test]
    fn first_split_is_not_erased() {
        let splits = |num_splits| RandomErasingOptions { num_splits, ..RandomErasingOptions::default() };
        assert_eq!([0, 1, 2, 3].map(|n| splits(n).first_image(12)), [0, 0, 6, 4]);
    }

    #[test]
    fn invalid_options_are_rejected() {
        let default = RandomErasingOptions::default;
        assert!(default().check().is_ok());
        assert!(RandomErasingOptions { prob: 1.5, ..default() }.check().is_err());
        assert!(RandomErasingOptions { count: 0, ..default() }.check().is_err());
        assert!(RandomErasingOptions { area: [0.5, 0.1], ..default() }.check().is_err());
    }
}
