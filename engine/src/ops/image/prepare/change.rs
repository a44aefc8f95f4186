//! Augmentations of the images of a batch, and their encoding.
use super::OP;
use crate::random::RngStream;
use crate::{Error, Result, Tensor};

/// Numbers of a row of changes before its erase boxes.
pub(crate) const CHANGE_HEADER_LEN: usize = 7;

/// Box of an image, in pixels. Empty where its height or width is 0, as by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ImageBox {
    /// First row.
    pub top: u32,
    /// One past the last row.
    pub bottom: u32,
    /// First column.
    pub left: u32,
    /// One past the last column.
    pub right: u32,
}

/// Augmentation of one image of a batch: mixing and erasing.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageChange {
    /// Index of the image it is mixed with.
    pub partner: usize,
    /// Mixup weight of the image itself, outside of the CutMix box.
    pub lam: f32,
    /// CutMix box: its pixels are the partner's.
    pub cutmix_box: ImageBox,
    /// Sample number for the random numbers in erased boxes.
    pub sample: u64,
    /// Erased boxes.
    pub erase_boxes: Vec<ImageBox>,
}

/// Options that all images of a batch share.
#[derive(Clone, Debug)]
pub struct ImagePreparation<'a> {
    /// Value of full intensity, which becomes 1 before normalisation: 255.
    pub white: u8,
    /// Mean of each channel.
    pub mean: &'a [f32],
    /// Standard deviation of each channel.
    pub std: &'a [f32],
    /// Round mixed values to bytes, half to even, as timm's collation does.
    pub rounded: bool,
    /// Content of erased boxes.
    pub erase_mode: EraseMode,
    /// Random numbers for erased boxes: the key and the epoch of this stream; the sample is each image's.
    pub rng: RngStream,
}

/// Content of erased boxes, after normalisation; timm's `--remode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EraseMode {
    /// 0, the mean (`const`).
    #[default]
    Const,
    /// One standard normal value per channel of each box (`rand`).
    Rand,
    /// A standard normal value per element (`pixel`).
    Pixel,
}

impl ImageBox {
    /// Number of rows.
    pub fn height(&self) -> usize {
        (self.bottom - self.top) as usize
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        (self.right - self.left) as usize
    }

    /// Number of pixels.
    pub fn area(&self) -> usize {
        self.height() * self.width()
    }

    /// Top, bottom, left and right: the box's part of a row of changes.
    fn row(&self) -> [i64; 4] {
        [self.top, self.bottom, self.left, self.right].map(i64::from)
    }
}

impl ImageChange {
    /// No mixing and no erasing; the image is only normalised.
    pub fn none(image: usize) -> ImageChange {
        ImageChange {
            partner: image,
            lam: 1.0,
            cutmix_box: ImageBox::default(),
            sample: image as u64,
            erase_boxes: vec![],
        }
    }

    /// Encodes the changes of the first `changes.len()` of `images` images as i64 `[changes, 7 + 4 boxes]`, with up to `boxes` erase boxes
    /// per image. Errors when an image has more, or a partner is out of range.
    pub fn rows(changes: &[ImageChange], images: usize, boxes: usize) -> Result<Tensor> {
        let mut rows = vec![];
        for change in changes {
            if change.partner >= images || change.erase_boxes.len() > boxes {
                let why = format!(
                    "partner {} must be below {images}, and an image must have at most {boxes} erase boxes, not {}",
                    change.partner,
                    change.erase_boxes.len()
                );
                return Err(Error::value(OP, &[], why));
            }
            rows.extend([change.partner as i64, i64::from(change.lam.to_bits())]);
            rows.extend(change.cutmix_box.row());
            rows.push(change.sample as i64);
            let erased = change.erase_boxes.iter().copied().chain(std::iter::repeat(ImageBox::default()));
            rows.extend(erased.take(boxes).flat_map(|erased| erased.row()));
        }
        Tensor::from_vec(rows, [changes.len(), CHANGE_HEADER_LEN + 4 * boxes])
    }
}
