//! timm's evaluation transform: resize, crop and normalise an image of any size to a model's input.
use super::decode::{Image, MAX_PIXELS};
use super::resize::{ResizeFilter, resize};
use crate::Result;
use clap::ValueEnum;
use fornax_engine::{DType, Tensor};

/// Crop mode, by timm's name.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CropMode {
    /// Scale the short side, crop the centre of the long side
    Center,
    /// Scale both sides independently, ignoring the aspect ratio
    Squash,
    /// Scale the long side, pad the short side with the mean colour
    Border,
}

/// Evaluation transform.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalTransform {
    /// Output height and width.
    pub size: [usize; 2],
    /// Fraction of the resized side that the centre crop keeps, usually at most 1.
    pub crop_pct: f64,
    /// Crop mode.
    pub crop_mode: CropMode,
    /// Resampling filter.
    pub filter: ResizeFilter,
    /// Mean of each channel, for values in `0..=1`.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel.
    pub std: Vec<f32>,
}

impl EvalTransform {
    /// Resizes and crops an image to the output size, in u8. Errors if the resized image would be too large.
    pub fn resize_and_crop(&self, image: &Image) -> std::result::Result<Image, String> {
        let [h, w, _] = image.size;
        let scaled = self.size.map(|side| (side as f64 / self.crop_pct).floor().max(1.0));
        let size = match self.crop_mode {
            CropMode::Squash => scaled.map(|side| side as usize),
            // torchvision's rule for a single size: the long side is truncated, not rounded.
            CropMode::Center if scaled[0] == scaled[1] => {
                let short = scaled[0] as usize;
                let long = (short as f64 * h.max(w) as f64 / h.min(w) as f64) as usize;
                if h < w { [short, long] } else { [long, short] }
            }
            mode => {
                let ratios = [h as f64 / scaled[0], w as f64 / scaled[1]];
                let ratio = match mode {
                    CropMode::Border => ratios[0].max(ratios[1]),
                    _ => ratios[0].min(ratios[1]),
                };
                [h, w].map(|side| ((side as f64 / ratio).round_ties_even() as usize).max(1))
            }
        };
        if size[0].saturating_mul(size[1]) > MAX_PIXELS {
            return Err(format!(
                "its {h}x{w} pixels would be resized to {}x{} before the crop",
                size[0], size[1]
            ));
        }
        let fill: Vec<u8> = match self.crop_mode {
            CropMode::Border => {
                self.mean.iter().map(|m| (255.0 * f64::from(*m)).round_ties_even() as u8).collect()
            }
            _ => vec![0; image.size[2]],
        };
        Ok(centre_crop(&resize(image, size, self.filter), self.size, &fill))
    }

    /// Normalises images of the output size into a batch: f32 `[n, h, w, c]`.
    pub fn batch(&self, images: &[Image]) -> Result<Tensor> {
        let channels = self.mean.len();
        let shape = [images.len(), self.size[0], self.size[1], channels];
        let bytes: Vec<u8> = images.iter().flat_map(|image| &image.pixels).copied().collect();
        Ok(Tensor::from_vec(bytes, shape)?.normalize_bytes(255, &self.mean, &self.std, DType::F32)?)
    }
}

/// Centre crop; a smaller image is padded on both sides first, by the extra pixel on the right and at the bottom.
fn centre_crop(image: &Image, size: [usize; 2], fill: &[u8]) -> Image {
    let [h, w, c] = image.size;
    // Start of the crop in pixels of the image.
    let start = |have: usize, want: usize| match have >= want {
        true => ((have - want) as f64 / 2.0).round_ties_even() as isize,
        false => -(((want - have) / 2) as isize),
    };
    let (top, left) = (start(h, size[0]), start(w, size[1]));
    let inside = |at: isize, extent: usize| usize::try_from(at).ok().filter(|at| *at < extent);
    let mut pixels = Vec::with_capacity(size[0] * size[1] * c);
    for y in 0..size[0] as isize {
        for x in 0..size[1] as isize {
            match (inside(y + top, h), inside(x + left, w)) {
                (Some(y), Some(x)) => pixels.extend_from_slice(&image.pixels[(y * w + x) * c..][..c]),
                _ => pixels.extend_from_slice(fill),
            }
        }
    }
    Image { size: [size[0], size[1], c], pixels }
}
