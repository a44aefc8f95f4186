//! Test-time augmentation: several views of an image, whose outputs are averaged.
use super::ImageTransform;
use crate::data::Image;
use crate::data::eval_transform::EvalTransform;
use fornax_engine::random::RngStream;

/// Views of an image for evaluation: crops of the resized image, and their mirror images.
#[derive(Clone, Debug, PartialEq)]
pub struct TestTimeAugmentation {
    transform: EvalTransform,
    views: usize,
}

/// Numbers of views: the centre, with its mirror image, the centre and the corners, and these with their mirror images.
pub const VIEW_COUNTS: [usize; 4] = [1, 2, 5, 10];

/// Positions of the crops: the centre, then the corners.
const POSITIONS: [[f64; 2]; 5] = [[0.5, 0.5], [0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]];

impl TestTimeAugmentation {
    /// Creates the augmentation with 1, 2, 5 or 10 views of an evaluation transform. Errors for another number.
    pub fn new(transform: EvalTransform, views: usize) -> Result<TestTimeAugmentation, String> {
        match VIEW_COUNTS.contains(&views) {
            true => Ok(TestTimeAugmentation { transform, views }),
            false => Err(format!("{views} views are not available; use one of {VIEW_COUNTS:?}")),
        }
    }
}

impl ImageTransform for TestTimeAugmentation {
    fn output_size(&self) -> [usize; 2] {
        self.transform.size
    }

    fn views(&self) -> usize {
        self.views
    }

    fn apply(&self, image: &Image, _rng: &mut RngStream) -> Result<Vec<Image>, String> {
        let flips: &[bool] = if self.views.is_multiple_of(2) { &[false, true] } else { &[false] };
        let positions = &POSITIONS[..self.views / flips.len()];
        let views = positions.iter().flat_map(|position| flips.iter().map(move |flip| (*position, *flip)));
        views.map(|(position, flip)| self.transform.resize_and_crop_at(image, position, flip)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::eval_transform::CropMode;
    use crate::data::resize::ResizeFilter;
    use fornax_engine::random::RngKey;

    fn views(count: usize) -> Vec<Vec<u8>> {
        let transform = EvalTransform {
            size: [2, 2],
            crop_pct: 0.5,
            crop_mode: CropMode::Center,
            filter: ResizeFilter::Nearest,
            mean: vec![0.0],
            std: vec![1.0],
        };
        let augmentation = TestTimeAugmentation::new(transform, count).expect("available");
        assert_eq!((augmentation.views(), augmentation.output_size()), (count, [2, 2]));
        let image = Image { size: [4, 4, 1], pixels: (0..16).collect() };
        let mut rng = RngStream::new(RngKey::new(0, ""), 0, 0);
        augmentation.apply(&image, &mut rng).expect("views").into_iter().map(|view| view.pixels).collect()
    }

    #[test]
    fn views_are_the_centre_the_corners_and_their_mirror_images() {
        assert_eq!(views(1), [[5, 6, 9, 10]]);
        assert_eq!(views(2), [[5, 6, 9, 10], [6, 5, 10, 9]]);
        assert_eq!(views(5)[1..], [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]);
        let ten = views(10);
        assert!(ten.len() == 10 && ten[2] == [0, 1, 4, 5] && ten[3] == [1, 0, 5, 4]);
    }

    #[test]
    fn other_numbers_of_views_are_rejected() {
        let transform = EvalTransform {
            size: [2, 2],
            crop_pct: 1.0,
            crop_mode: CropMode::Center,
            filter: ResizeFilter::Nearest,
            mean: vec![0.0],
            std: vec![1.0],
        };
        let error = TestTimeAugmentation::new(transform, 3).expect_err("three");
        assert!(error.contains("[1, 2, 5, 10]"), "{error}");
    }
}
