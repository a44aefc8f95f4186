//! Channel statistics for the normalisation of images.
use super::dataset::{Dataset, SampleImage};
use crate::{Error, Result};
use fornax_engine::{DType, Tensor};

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

    /// Computes the statistics of a dataset of decoded images, converted to `channels` channels, with exact integer sums. Errors if an
    /// image is encoded.
    pub fn of(dataset: &dyn Dataset, white: u8, channels: usize) -> Result<ChannelStats> {
        let (mut sum, mut squares) = (vec![0u64; channels], vec![0u64; channels]);
        let mut pixels = 0u64;
        for index in 0..dataset.len() {
            let SampleImage::Decoded(image) = dataset.image(index)? else {
                return Err(Error::data("the channel statistics cannot be computed")
                    .at(dataset.location(index))
                    .because("the image is not decoded"));
            };
            let image = image.with_channels(channels);
            for pixel in image.pixels.chunks_exact(channels) {
                for (c, value) in pixel.iter().enumerate() {
                    sum[c] += u64::from(*value);
                    squares[c] += u64::from(*value) * u64::from(*value);
                }
            }
            pixels += (image.pixels.len() / channels) as u64;
        }
        let (n, scale) = (pixels as f64, f64::from(white));
        let mean: Vec<f64> = sum.iter().map(|s| *s as f64 / n).collect();
        let std = squares.iter().zip(&mean).map(|(s, mean)| (*s as f64 / n - mean * mean).max(0.0).sqrt());
        Ok(ChannelStats {
            white,
            std: std.map(|s| if s > 0.0 { (s / scale) as f32 } else { 1.0 }).collect(),
            mean: mean.iter().map(|m| (m / scale) as f32).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Image, InMemoryDataset};

    #[test]
    fn statistics_are_computed_per_channel() {
        let image = |pixels: &[u8]| Image { size: [1, 2, 3], pixels: pixels.to_vec() };
        let images = [image(&[0, 10, 5, 20, 10, 5]), image(&[40, 10, 5, 20, 10, 5])];
        let dataset = InMemoryDataset::new(images, vec![0, 1], vec!["a".into(), "b".into()]).expect("valid");
        let s = ChannelStats::of(&dataset, 20, 3).expect("decoded");
        assert_eq!((s.mean, s.std), (vec![1.0, 0.5, 0.25], vec![0.5f32.sqrt(), 1.0, 1.0]));
    }
}
