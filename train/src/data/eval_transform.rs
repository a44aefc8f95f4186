//! timm's evaluation transform: resize, crop and normalise an image of any size to a model's input.
use super::decode::MAX_PIXELS;
use super::image::Image;
use super::resize::{Resize, ResizeFilter};
use crate::Result;
use crate::augment::ImageTransform;
use clap::ValueEnum;
use fornax_engine::random::RngStream;
use fornax_engine::{DType, ImageBox, Tensor};

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
        self.resize_and_crop_at(image, [0.5, 0.5], false)
    }

    /// As [`resize_and_crop`](EvalTransform::resize_and_crop), with the crop at a position from 0 (top, left) to 1 (bottom, right) on each
    /// axis, and mirrored horizontally if `flip`.
    pub fn resize_and_crop_at(
        &self,
        image: &Image,
        position: [f64; 2],
        flip: bool,
    ) -> std::result::Result<Image, String> {
        let [h, w, c] = image.size;
        let size = self.resized(h, w)?;
        // Start of the output in the resized image, negative where it is padded, by the extra pixel on the right and at the bottom.
        let starts = [0, 1].map(|axis| match size[axis] >= self.size[axis] {
            true => ((size[axis] - self.size[axis]) as f64 * position[axis]).round_ties_even() as isize,
            false => -(((self.size[axis] - size[axis]) / 2) as isize),
        });
        let inside = |axis: usize| {
            let end = (starts[axis] + self.size[axis] as isize).min(size[axis] as isize);
            [starts[axis].max(0) as u32, end as u32]
        };
        let ([top, bottom], [left, right]) = (inside(0), inside(1));
        let resize = Resize {
            window: ImageBox { top, bottom, left, right },
            reversed: [false, flip],
            ..Resize::new(image.size, size, self.filter)
        };
        let resized = resize.apply(image);
        if resized.size[..2] == self.size {
            return Ok(resized);
        }
        let fill = match self.crop_mode {
            CropMode::Border => mean_colour(&self.mean),
            _ => vec![0; c],
        };
        let padding = starts.map(|start| (-start).max(0) as usize);
        let [rows, columns, _] = resized.size;
        let left = if flip { self.size[1] - columns - padding[1] } else { padding[1] };
        let mut padded =
            Image { size: [self.size[0], self.size[1], c], pixels: fill.repeat(self.size.iter().product()) };
        for (y, row) in resized.pixels.chunks_exact(columns * c).enumerate().take(rows) {
            padded.pixels[((padding[0] + y) * self.size[1] + left) * c..][..columns * c].copy_from_slice(row);
        }
        Ok(padded)
    }

    /// Height and width that an image is resized to. Errors if they are too large.
    fn resized(&self, h: usize, w: usize) -> std::result::Result<[usize; 2], String> {
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
        check_size([h, w], size)?;
        Ok(size)
    }

    /// Normalises images of the output size into a batch: f32 `[n, h, w, c]`.
    pub fn batch(&self, images: &[Image]) -> Result<Tensor> {
        let channels = self.mean.len();
        let shape = [images.len(), self.size[0], self.size[1], channels];
        let bytes: Vec<u8> = images.iter().flat_map(|image| &image.pixels).copied().collect();
        Ok(Tensor::from_vec(bytes, shape)?.normalize_bytes(255, &self.mean, &self.std, DType::F32)?)
    }
}

impl ImageTransform for EvalTransform {
    fn output_size(&self) -> [usize; 2] {
        self.size
    }

    fn apply(&self, image: &Image, _rng: &mut RngStream) -> std::result::Result<Vec<Image>, String> {
        Ok(vec![self.resize_and_crop(image)?])
    }
}

/// The mean in bytes: the colour of borders.
pub(crate) fn mean_colour(mean: &[f32]) -> Vec<u8> {
    // The shortest decimal is the number as given, in f64 as in Python: 0.3 is 76, its nearest f32 would be 77.
    let exact = |m: &f32| m.to_string().parse().unwrap_or(f64::from(*m));
    mean.iter().map(|m| (255.0 * exact(m)).round_ties_even() as u8).collect()
}

/// Errors if an image would be resized to too many pixels.
pub(crate) fn check_size([h, w]: [usize; 2], size: [usize; 2]) -> std::result::Result<(), String> {
    match size[0].saturating_mul(size[1]) > MAX_PIXELS {
        true => {
            Err(format!("its {h}x{w} pixels would be resized to {}x{} before the crop", size[0], size[1]))
        }
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_colour_rounds_as_python_does() {
        // 255 * 0.3 is 76.5 in f64.
        assert_eq!(mean_colour(&[0.3, 0.485, 0.456, 0.406, 0.5, 0.0, 1.0]), [76, 124, 116, 104, 128, 0, 255]);
    }
}
