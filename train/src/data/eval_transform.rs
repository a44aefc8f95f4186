//! From a picture of any size to what a model takes, as timm's evaluation transform does it: resized, cropped, normalised.
use super::decode::{MAX_PIXELS, Picture};
use super::resize::{Filter, resize};
use crate::Result;
use clap::ValueEnum;
use fornax_engine::{DType, Tensor};

/// What is cut off or added to reach the model's aspect ratio.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CropMode {
    /// The short side is scaled, the middle of the long one kept
    Center,
    /// Both sides are scaled, each by itself
    Squash,
    /// The long side is scaled, the short one filled up with the mean colour
    Border,
}

/// Makes a model's input of pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalTransform {
    /// Height and width of the result.
    pub size: [usize; 2],
    /// Part of the scaled side that is kept; not above 1 is usual.
    pub crop_pct: f64,
    /// How it is cropped.
    pub crop_mode: CropMode,
    /// How it is resized.
    pub filter: Filter,
    /// Mean of each channel, of values from 0 to 1.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel.
    pub std: Vec<f32>,
}

impl EvalTransform {
    /// The picture in the model's size, still in bytes. The error says why that cannot be made of it.
    pub fn fit(&self, picture: &Picture) -> std::result::Result<Picture, String> {
        let [h, w, _] = picture.size;
        let scaled = self.size.map(|side| (side as f64 / self.crop_pct).floor().max(1.0));
        let size = match self.crop_mode {
            CropMode::Squash => scaled.map(|side| side as usize),
            // torchvision's rule for one number: the long side is cut off, not rounded.
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
                "{h}x{w} pixels would become {}x{} before they are cropped",
                size[0], size[1]
            ));
        }
        let fill: Vec<u8> = match self.crop_mode {
            CropMode::Border => {
                self.mean.iter().map(|m| (255.0 * f64::from(*m)).round_ties_even() as u8).collect()
            }
            _ => vec![0; picture.size[2]],
        };
        Ok(centre(&resize(picture, size, self.filter), self.size, &fill))
    }

    /// Pictures of the model's size, normalised: f32 `[n, h, w, c]`.
    pub fn batch(&self, pictures: &[Picture]) -> Result<Tensor> {
        let channels = self.mean.len();
        let shape = [pictures.len(), self.size[0], self.size[1], channels];
        let bytes: Vec<u8> = pictures.iter().flat_map(|picture| &picture.pixels).copied().collect();
        Ok(Tensor::from_vec(bytes, shape)?.normalize_bytes(255, &self.mean, &self.std, DType::F32)?)
    }
}

/// The middle of a picture; where it is smaller, it gets a border on both sides first, the wider one on the right and at the bottom.
fn centre(picture: &Picture, size: [usize; 2], fill: &[u8]) -> Picture {
    let [h, w, c] = picture.size;
    // Where the result begins, in pixels of the picture.
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
                (Some(y), Some(x)) => pixels.extend_from_slice(&picture.pixels[(y * w + x) * c..][..c]),
                _ => pixels.extend_from_slice(fill),
            }
        }
    }
    Picture { size: [size[0], size[1], c], pixels }
}
