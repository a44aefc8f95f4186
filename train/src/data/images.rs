//! Labelled images in memory.
use crate::{Error, Result};
use fornax_engine::{DType, Tensor};

/// Labelled images of one size: u8 `[n, h, w, c]`, row by row, channels last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledImages {
    /// Height, width and channels of each image.
    pub size: [usize; 3],
    /// `n * h * w * c` values.
    pub pixels: Vec<u8>,
    /// `n` class indices.
    pub labels: Vec<u8>,
}

impl LabelledImages {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True if there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Values in one image.
    pub fn image_len(&self) -> usize {
        self.size.iter().product()
    }

    /// The values of image `i`.
    pub fn image(&self, i: usize) -> &[u8] {
        &self.pixels[i * self.image_len()..][..self.image_len()]
    }

    /// The images at the given indices, in that order.
    pub fn select(&self, indices: impl IntoIterator<Item = usize>) -> LabelledImages {
        let mut chosen = LabelledImages { size: self.size, pixels: vec![], labels: vec![] };
        for i in indices {
            chosen.pixels.extend_from_slice(self.image(i));
            chosen.labels.push(self.labels[i]);
        }
        chosen
    }

    /// Checks that every label is below `classes`; `location` is the path of the labels, for the error.
    pub fn check_labels(&self, classes: usize, location: &str) -> Result<()> {
        match self.labels.iter().position(|label| usize::from(*label) >= classes) {
            None => Ok(()),
            Some(i) => Err(Error::data(format!("label {i} is out of range"))
                .at(location)
                .because(format!("it is {}; the classes are 0 to {}", self.labels[i], classes - 1))
                .remedy("check that the file belongs to this dataset, or choose another with --dataset")),
        }
    }
}

/// Mean and standard deviation of each channel, of pixel values divided by `white`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ChannelStats {
    /// Pixel value that is scaled to 1.
    pub white: u8,
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel; 1 for a constant channel.
    pub std: Vec<f32>,
}

impl ChannelStats {
    /// Normalises u8 images `[n, h, w, c]` into a float dtype: `(x / white - mean) / std`.
    pub fn normalise(&self, images: &Tensor, dtype: DType) -> fornax_engine::Result<Tensor> {
        images.normalize_bytes(self.white, &self.mean, &self.std, dtype)
    }

    /// Computes the statistics of images, with exact integer sums.
    pub fn of(images: &LabelledImages, white: u8) -> ChannelStats {
        let channels = images.size[2];
        let n = (images.pixels.len() / channels) as f64;
        let (mut sum, mut squares) = (vec![0u64; channels], vec![0u64; channels]);
        for pixel in images.pixels.chunks_exact(channels) {
            for (c, value) in pixel.iter().enumerate() {
                sum[c] += u64::from(*value);
                squares[c] += u64::from(*value) * u64::from(*value);
            }
        }
        let scale = f64::from(white);
        let mean: Vec<f64> = sum.iter().map(|s| *s as f64 / n).collect();
        let std = squares.iter().zip(&mean).map(|(s, mean)| (*s as f64 / n - mean * mean).max(0.0).sqrt());
        ChannelStats {
            white,
            std: std.map(|s| if s > 0.0 { (s / scale) as f32 } else { 1.0 }).collect(),
            mean: mean.iter().map(|m| (m / scale) as f32).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> LabelledImages {
        LabelledImages { size: [1, 2, 2], pixels: vec![0, 10, 20, 10, 40, 10, 20, 10], labels: vec![0, 3] }
    }

    #[test]
    fn statistics_are_computed_per_channel() {
        let s = ChannelStats::of(&images(), 20);
        assert_eq!((s.mean, s.std), (vec![1.0, 0.5], vec![0.5f32.sqrt(), 1.0]));
    }

    #[test]
    fn label_out_of_range_is_rejected() {
        assert!(images().check_labels(4, "labels").is_ok());
        let error = images().check_labels(3, "labels").expect_err("3 is too high").to_string();
        assert!(error.contains("label 1 is out of range") && error.contains("it is 3"), "{error}");
    }

    #[test]
    fn select_keeps_images_and_labels_together() {
        let s = images().select([1, 0, 1]);
        assert_eq!((s.len(), s.labels.clone(), s.image(0)), (3, vec![3, 0, 3], &[40, 10, 20, 10][..]));
    }
}
